"""What the provider said about a failure."""


def up(_migrator, db):
    """Add the column."""
    for statement in STATEMENTS:
        db.execute_sql(statement)


STATEMENTS = (
    "ALTER TABLE exchange ADD COLUMN upstream_said TEXT",
    # Last again, since SQLite reads a row from its beginning, and this may be large.
    "ALTER TABLE exchange RENAME COLUMN answer TO answer_before",
    "ALTER TABLE exchange ADD COLUMN answer BLOB",
    "UPDATE exchange SET answer = answer_before WHERE answer_before IS NOT NULL",
    "ALTER TABLE exchange DROP COLUMN answer_before",
)
