"""How the tables came to be what they are, one step a file; ``upgrade`` takes them.

A change of :mod:`runner.store.schema` needs a step here, and :data:`HEAD` names the last one: tests
hold that the steps and the schema agree. A step that was released is never changed.
"""

from pathlib import Path

HEAD = "0002"
"""The last step, known without loading alembic: a start that has nothing to do stays quick."""

FIRST = "0001"

SCRIPTS = Path(__file__).parent
