"""`python -m migrations [REVISION]`: brings the database of the settings to that revision, by default the newest.

Every gateway does the same when it starts; this is for those who want it done before, or want to go back.
"""

import sys

from alembic import command

from app.db import alembic_config, upgrade
from app.settings import Settings


def main(arguments: list[str]) -> int:
    settings = Settings()
    settings.make_directories()
    match arguments:
        case []:
            upgrade(settings.database_url)
        case ["down", revision]:
            command.downgrade(alembic_config(settings.database_url), revision)
        case [revision]:
            upgrade(settings.database_url, revision)
        case _:
            sys.stderr.write(f"{__doc__}\npython -m migrations down REVISION goes back.\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
