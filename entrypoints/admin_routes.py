"""The routes for those who look after the service."""

from chatport.domain import errors

from . import admin_answers, admin_wire
from .admin_wire import CALLER_NAME_PATTERN
from .route import Access, Route

CALLER_IN_PATH = {
    "name": {"type": "string", "pattern": CALLER_NAME_PATTERN, "examples": ["shop"]},
}
EXCHANGE_IN_PATH = {
    "exchange_id": {"type": "string", "minLength": 1, "examples": ["0123456789abcdef" * 2]},
}
USAGE, LOG, KEYS = "Usage", "Log", "Callers and keys"

ADMIN_ROUTES = (
    Route(
        method="get",
        path="/admin/usage",
        access=Access.ADMIN,
        name="readUsage",
        group=USAGE,
        summary="Say who used what, what it cost, and what was refused",
        text=(
            "The dearest first; of days, the newest first. It outlives the exchanges that were"
            " erased. Refusals come newest first, by caller, rule and minute."
        ),
        query=admin_wire.UsagePage,
        answer=admin_answers.UsageRows,
        faults=(errors.InvalidField, errors.InvalidUnicode),
    ),
    Route(
        method="get",
        path="/admin/log",
        access=Access.ADMIN,
        name="searchLog",
        group=LOG,
        summary="Search the log of all exchanges",
        text="A page at a time, the newest first.",
        query=admin_wire.LogPage,
        answer=admin_answers.LogPage,
        faults=(errors.InvalidField, errors.InvalidUnicode),
    ),
    Route(
        method="get",
        path="/admin/log/{exchange_id}",
        access=Access.ADMIN,
        name="readExchange",
        group=LOG,
        summary="Show an exchange whole",
        text="With request and response, if it was passed on in OpenAI's protocol.",
        path_values=EXCHANGE_IN_PATH,
        answer=admin_answers.WholeExchange,
        faults=(errors.ExchangeNotFound,),
    ),
    Route(
        method="get",
        path="/admin/keys",
        access=Access.ADMIN,
        name="listCallers",
        group=KEYS,
        summary="List the callers and their keys",
        text="A page at a time, in the order of their names.",
        query=admin_wire.CallersPage,
        answer=admin_answers.CallersPage,
        faults=(errors.InvalidField,),
    ),
    Route(
        method="post",
        path="/admin/keys",
        access=Access.ADMIN,
        name="createCaller",
        group=KEYS,
        summary="Add a caller, and make its first key",
        text=(
            "The key is in this answer only: chatport keeps its hash. Whoever has lost the answer"
            " rotates the caller's keys."
        ),
        body=admin_wire.NewCaller,
        example={"name": "shop", "user_limits": "20/minute", "budgets": "5 USD/day"},
        answer=admin_answers.KeyGiven,
        faults=(errors.InvalidField, errors.CallerExists),
    ),
    Route(
        method="get",
        path="/admin/keys/{name}",
        access=Access.ADMIN,
        name="showCaller",
        group=KEYS,
        summary="Show a caller and its keys",
        text="The keys by their public parts; nobody can tell more of them.",
        path_values=CALLER_IN_PATH,
        answer=admin_answers.Caller,
        faults=(errors.CallerNotFound,),
    ),
    Route(
        method="patch",
        path="/admin/keys/{name}",
        access=Access.ADMIN,
        name="changeCaller",
        group=KEYS,
        summary="Change what a caller may do",
        text="What the body leaves out stays as it is. It holds within seconds on every process.",
        path_values=CALLER_IN_PATH,
        body=admin_wire.CallerChanges,
        example={"limits": "100/minute; 8 in flight", "budgets": None},
        answer=admin_answers.Caller,
        faults=(errors.InvalidField, errors.CallerNotFound),
    ),
    Route(
        method="post",
        path="/admin/keys/{name}/rotate",
        access=Access.ADMIN,
        name="rotateKey",
        group=KEYS,
        summary="Make a new key, and let the old ones expire",
        text="The new key is in this answer only. A caller whose keys are revoked gets one again.",
        path_values=CALLER_IN_PATH,
        body=admin_wire.Rotation,
        example={"overlap_seconds": 3600},
        answer=admin_answers.KeyGiven,
        faults=(errors.InvalidField, errors.CallerNotFound),
    ),
    Route(
        method="delete",
        path="/admin/keys/{name}",
        access=Access.ADMIN,
        name="revokeKeys",
        group=KEYS,
        summary="Revoke all keys of a caller",
        text=(
            "They open nothing within seconds. The caller, its log and its usage stay; once more"
            " revokes nothing."
        ),
        path_values=CALLER_IN_PATH,
        answer=admin_answers.Revoked,
        faults=(errors.CallerNotFound,),
    ),
)
