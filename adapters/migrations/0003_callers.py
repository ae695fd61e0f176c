"""Callers with their keys, what was used and spent, and what makes old texts go."""

import peewee


def up(_migrator, db):
    """Add the tables and columns. The models are frozen copies of what they were then."""

    class Caller(db.Model):
        name = peewee.TextField(primary_key=True)
        role = peewee.TextField()
        limits = peewee.TextField(null=True)
        budgets = peewee.TextField(null=True)
        user_limits = peewee.TextField(null=True)
        user_budgets = peewee.TextField(null=True)
        models = peewee.TextField()
        created_at = peewee.TextField()

        class Meta:
            table_name = "caller"

    class ApiKey(db.Model):
        id = peewee.TextField(primary_key=True)
        caller = peewee.TextField(index=True)
        secret_hash = peewee.BlobField()
        created_at = peewee.TextField()
        expires_at = peewee.TextField(null=True)
        revoked_at = peewee.TextField(null=True)

        class Meta:
            table_name = "api_key"

    class Usage(db.Model):
        day = peewee.TextField()
        caller = peewee.TextField()
        user_id = peewee.TextField()
        model = peewee.TextField()
        calls = peewee.IntegerField()
        completed = peewee.IntegerField()
        prompt_tokens = peewee.IntegerField()
        cached_tokens = peewee.IntegerField()
        completion_tokens = peewee.IntegerField()
        estimated = peewee.IntegerField()
        unpriced = peewee.IntegerField()
        nanodollars = peewee.IntegerField()

        class Meta:
            table_name = "usage"
            primary_key = peewee.CompositeKey("caller", "user_id", "day", "model")

    class Spending(db.Model):
        caller = peewee.TextField()
        user_id = peewee.TextField()
        period = peewee.TextField()
        tokens = peewee.IntegerField()
        nanodollars = peewee.IntegerField()
        reserved_tokens = peewee.IntegerField()
        reserved_nanodollars = peewee.IntegerField()
        reserved_calls = peewee.IntegerField()

        class Meta:
            table_name = "spending"
            primary_key = peewee.CompositeKey("caller", "user_id", "period")

    db.create_tables([Caller, ApiKey, Usage, Spending])
    for statement in STATEMENTS:
        db.execute_sql(statement)


STATEMENTS = (
    "ALTER TABLE exchange ADD COLUMN cached_tokens INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE exchange ADD COLUMN nanodollars INTEGER",
    "ALTER TABLE exchange ADD COLUMN reserved_in INTEGER NOT NULL DEFAULT 0",
    # Last again, since SQLite reads a row from its beginning, and this may be large.
    "ALTER TABLE exchange RENAME COLUMN answer TO answer_before",
    "ALTER TABLE exchange ADD COLUMN answer BLOB",
    "UPDATE exchange SET answer = answer_before WHERE answer_before IS NOT NULL",
    "ALTER TABLE exchange DROP COLUMN answer_before",
    # Calls in flight; also what to interrupt, without a look at all that has ended.
    "CREATE INDEX exchange_in_flight ON exchange (caller, user_id) WHERE state = 'open'",
    # An exchange whose content goes keeps an empty place in the word index.
    """CREATE TRIGGER exchange_text_emptied AFTER UPDATE OF prompt ON exchange
    WHEN old.state <> 'open' BEGIN
        INSERT INTO exchange_text (exchange_text, rowid, prompt, reply)
        VALUES ('delete', old.id, old.prompt, old.reply);
        INSERT INTO exchange_text (rowid, prompt, reply) VALUES (new.id, new.prompt, new.reply);
    END""",
)
