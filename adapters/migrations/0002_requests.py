"""Requests that are passed on: their texts, their answers, and what makes them repeatable."""

import peewee


def up(_migrator, db):
    """Add the tables and columns. The models are frozen copies of what they were then."""

    class MessageText(db.Model):
        id = peewee.AutoField()
        caller = peewee.TextField()
        digest = peewee.BlobField()
        text = peewee.TextField()

        class Meta:
            table_name = "message_text"

    class MessageChain(db.Model):
        id = peewee.AutoField()
        digest = peewee.BlobField(unique=True)
        previous = peewee.IntegerField(null=True, index=True)
        text_id = peewee.IntegerField(index=True)

        class Meta:
            table_name = "message_chain"

    class Secret(db.Model):
        name = peewee.TextField(primary_key=True)
        value = peewee.BlobField()

        class Meta:
            table_name = "secret"

    db.create_tables([MessageText, MessageChain, Secret])
    for statement in STATEMENTS:
        db.execute_sql(statement)


STATEMENTS = (
    "CREATE UNIQUE INDEX message_text_digest ON message_text (caller, digest)",
    "ALTER TABLE exchange ADD COLUMN parameters_id INTEGER",
    "ALTER TABLE exchange ADD COLUMN messages_id INTEGER",
    "ALTER TABLE exchange ADD COLUMN final INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE exchange ADD COLUMN idempotency_key TEXT",
    "ALTER TABLE exchange ADD COLUMN request_hash TEXT",
    # Last, since SQLite reads a row from its beginning, and this may be large.
    "ALTER TABLE exchange ADD COLUMN answer BLOB",
    # Who else needs a text, when an exchange is erased.
    """CREATE INDEX exchange_parameters ON exchange (parameters_id)
    WHERE parameters_id IS NOT NULL""",
    "CREATE INDEX exchange_messages ON exchange (messages_id) WHERE messages_id IS NOT NULL",
    # What a repeated request repeats.
    """CREATE UNIQUE INDEX exchange_key ON exchange (caller, idempotency_key)
    WHERE idempotency_key IS NOT NULL""",
    """CREATE INDEX exchange_request ON exchange (caller, request_hash, finished_at)
    WHERE request_hash IS NOT NULL""",
    # A request that is passed on is no turn: it is nobody's history, and locks nobody out.
    "DROP INDEX exchange_history",
    """CREATE INDEX exchange_history ON exchange (caller, user_id, id)
    WHERE state = 'completed' AND parameters_id IS NULL""",
    "DROP INDEX exchange_open",
    """CREATE UNIQUE INDEX exchange_open ON exchange (caller, user_id)
    WHERE state = 'open' AND parameters_id IS NULL""",
)
