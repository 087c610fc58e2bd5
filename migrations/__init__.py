"""Schema migrations (Alembic); `app.db.upgrade` runs them."""
