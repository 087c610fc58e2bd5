"""Verdicts are counted per test block; a job may register a refit beside its judged version.

Revision: 0003
After: 0002
Date: 2026-11-20 17:35
"""

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('verdicts',
    sa.Column('tenant_id', sa.String(length=64), nullable=False),
    sa.Column('test_sha256', sa.String(length=80), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('job_id', sa.String(length=64), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_verdicts_job_id_jobs')),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_verdicts_tenant_id_tenants')),
    sa.PrimaryKeyConstraint('tenant_id', 'test_sha256', 'number', name=op.f('pk_verdicts')),
    sa.UniqueConstraint('tenant_id', 'test_sha256', 'job_id', name=op.f('uq_verdicts_tenant_id_test_sha256_job_id'))
    )
    with op.batch_alter_table('model_versions') as batch:
        batch.add_column(sa.Column('gate', sa.JSON(), nullable=True))
        batch.add_column(sa.Column('refit', sa.Boolean(), server_default=sa.false(), nullable=False))
        batch.add_column(sa.Column('incumbent', sa.Integer(), nullable=True))
        batch.drop_constraint('uq_model_versions_job_id_judged', type_='unique')
        batch.create_unique_constraint('uq_model_versions_job_id_refit', ['job_id', 'refit'])


def downgrade() -> None:
    with op.batch_alter_table('model_versions') as batch:
        batch.drop_constraint('uq_model_versions_job_id_refit', type_='unique')
        batch.create_unique_constraint('uq_model_versions_job_id_judged', ['job_id', 'judged'])
        batch.drop_column('incumbent')
        batch.drop_column('refit')
        batch.drop_column('gate')
    op.drop_table('verdicts')
