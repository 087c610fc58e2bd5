"""Checkpoints of running jobs.

Revision: 0002
After: 0001
Date: 2026-11-20 15:50
"""

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('job_checkpoints',
    sa.Column('id', sa.String(length=64), nullable=False),
    sa.Column('job_id', sa.String(length=64), nullable=False),
    sa.Column('step', sa.Integer(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('metrics', sa.JSON(), nullable=False),
    sa.Column('digest', sa.String(length=80), nullable=False),
    sa.Column('files', sa.JSON(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_checkpoints_job_id_jobs')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_job_checkpoints')),
    sa.UniqueConstraint('job_id', 'step', name=op.f('uq_job_checkpoints_job_id_step'))
    )


def downgrade() -> None:
    op.drop_table('job_checkpoints')
