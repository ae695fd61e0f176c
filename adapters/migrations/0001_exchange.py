"""The log of exchanges with its indexes, its full-text search, and the count of refusals."""

import peewee


def up(_migrator, db):
    """Make the tables. The models are frozen copies of what they were in version 0.1.0."""

    class Exchange(db.Model):
        id = peewee.AutoField()
        public_id = peewee.TextField(unique=True)
        caller = peewee.TextField()
        user_id = peewee.TextField()
        state = peewee.TextField()
        route = peewee.TextField()
        model = peewee.TextField()
        prompt = peewee.TextField()
        context_from = peewee.IntegerField(null=True)
        reply = peewee.TextField()
        sanitized = peewee.BooleanField()
        finish_reason = peewee.TextField(null=True)
        prompt_tokens = peewee.IntegerField(null=True)
        completion_tokens = peewee.IntegerField(null=True)
        tokens_estimated = peewee.BooleanField()
        turn_tokens = peewee.IntegerField()
        error_code = peewee.TextField(null=True)
        upstream_status = peewee.IntegerField(null=True)
        upstream_request_id = peewee.TextField(null=True)
        attempts = peewee.IntegerField()
        started_at = peewee.TextField()
        finished_at = peewee.TextField(null=True)
        lease_until = peewee.TextField()
        owner = peewee.TextField()

        class Meta:
            table_name = "exchange"

    class Refusal(db.Model):
        caller = peewee.TextField()
        rule = peewee.TextField()
        minute = peewee.TextField()
        count = peewee.IntegerField()

        class Meta:
            table_name = "refusal"
            primary_key = peewee.CompositeKey("caller", "rule", "minute")

    db.create_tables([Exchange, Refusal])
    for statement in STATEMENTS:
        db.execute_sql(statement)


STATEMENTS = (
    # One user's log, and, without a look at what failed, one user's memory.
    "CREATE INDEX exchange_conversation ON exchange (caller, user_id, id)",
    "CREATE INDEX exchange_history ON exchange (caller, user_id, id) WHERE state = 'completed'",
    # The lock that keeps a second turn out.
    "CREATE UNIQUE INDEX exchange_open ON exchange (caller, user_id) WHERE state = 'open'",
    # Words are indexed when an exchange ends, and leave the index with it.
    """CREATE VIRTUAL TABLE exchange_text
    USING fts5(prompt, reply, content='exchange', content_rowid='id')""",
    """CREATE TRIGGER exchange_text_added AFTER UPDATE OF state ON exchange
    WHEN old.state = 'open' AND new.state <> 'open' BEGIN
        INSERT INTO exchange_text (rowid, prompt, reply) VALUES (new.id, new.prompt, new.reply);
    END""",
    """CREATE TRIGGER exchange_text_removed AFTER DELETE ON exchange
    WHEN old.state <> 'open' BEGIN
        INSERT INTO exchange_text (exchange_text, rowid, prompt, reply)
        VALUES ('delete', old.id, old.prompt, old.reply);
    END""",
)
