"""The guards of chatport, what stands there without them, and the tests that must notice.

A guard is named by the fault that it keeps away. Whoever moves a guard moves it here too.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Guard:
    """Something without which chatport goes wrong in a way that a test must show.

    Attributes:
        name: What goes wrong without it.
        file: Where it stands.
        old: Its text, which stands there exactly once.
        new: What stands in its place when it is removed.
        caught_by: The tests of which at least one must fail then; below `tests/`.
    """

    name: str
    file: str
    old: str
    new: str
    caught_by: tuple[str, ...]


STORAGE = (
    Guard(
        "a power cut loses what was acknowledged",
        "adapters/sqlite_connection.py",
        '"synchronous": "full"',
        '"synchronous": "normal"',
        ("integration/test_sqlite_store.py::test_every_commit_is_synced_to_the_disk",),
    ),
    Guard(
        "the schema takes two open turns of a conversation",
        "adapters/migrations/0002_requests.py",
        "CREATE UNIQUE INDEX exchange_open",
        "CREATE INDEX exchange_open",
        ("integration/test_sqlite_store.py::test_the_schema_itself_keeps_what_is_one_of_a_kind",),
    ),
    Guard(
        "erased text stays in the file",
        "adapters/sqlite_connection.py",
        '"secure_delete": "on"',
        '"secure_delete": "off"',
        ("integration/test_sqlite_store.py::test_erased_text_is_nowhere_in_the_files",),
    ),
    Guard(
        "two processes read, and then both write",
        "adapters/group_commit.py",
        'self._database.begin("IMMEDIATE")',
        'self._database.begin("DEFERRED")',
        ("integration/test_sqlite_store.py::test_a_locked_database_is_waited_for_and_then_busy",),
    ),
    Guard(
        "a caller is told before the commit",
        "adapters/group_commit.py",
        "            self._wait(unit)\n        if unit.leads or",
        "            pass\n        if unit.leads or",
        ("integration/test_sqlite_store.py::test_one_callers_fault_is_not_the_others",),
    ),
    Guard(
        "who is named leader before it waits is woken twice",
        "adapters/group_commit.py",
        "        if waits:",
        "        if waits and not unit.leads:",
        (
            (
                "integration/test_sqlite_store.py::test_who_is_named_leader_before_it_waits_"
                "leads_and_lets_nobody_wait_for_ever"
            ),
        ),
    ),
    Guard(
        "the schema takes an idempotency key twice",
        "adapters/migrations/0002_requests.py",
        "CREATE UNIQUE INDEX exchange_key",
        "CREATE INDEX exchange_key",
        ("integration/test_sqlite_store.py::test_the_schema_itself_keeps_what_is_one_of_a_kind",),
    ),
    Guard(
        "a second turn interrupts the first",
        "adapters/sqlite_database.py",
        "            raise ConversationBusy\n",
        "            pass\n",
        (
            (
                "contract/test_conversation_store.py::test_a_second_open_turn_is_refused_and_"
                "nothing_is_written"
            ),
        ),
    ),
    Guard(
        "a lease never runs out",
        "adapters/life_sign.py",
        "return lives(owner) is False or (over and not lives(owner))",
        "return lives(owner) is False",
        (
            (
                "contract/test_conversation_store.py::test_an_open_turn_whose_lease_ran_out_"
                "makes_room_and_is_interrupted"
            ),
        ),
    ),
    Guard(
        "what a dead process left open locks its user out",
        "adapters/life_sign.py",
        "return lives(owner) is False or (over and not lives(owner))",
        "return over and not lives(owner)",
        (
            (
                "integration/test_sqlite_store.py::test_what_a_killed_process_left_open_"
                "makes_room_for_the_next_turn_at_once"
            ),
        ),
    ),
    Guard(
        "what is not a whole turn is history",
        "adapters/exchange_queries.py",
        "of_user & (row.state == peewee.SQL(\"'completed'\")) & is_turn",
        "of_user & ~is_open & is_turn",
        (
            (
                "contract/test_conversation_store.py::test_history_is_of_completed_exchanges_"
                "only_oldest_first"
            ),
        ),
    ),
    Guard(
        "an outcome is written over another",
        "adapters/sqlite_database.py",
        "        if held is None:\n            return False\n",
        "        held = held or (0, 0, 0)\n",
        ("contract/test_conversation_store.py::test_an_exchange_ends_once",),
    ),
    Guard(
        "an answer that was not kept is acknowledged",
        "domain/turn.py",
        "if isinstance(error, ExchangeLost) and state is not State.COMPLETED:",
        "if isinstance(error, ChatportError):",
        (
            ("unit/test_chat_service.py::test_an_answer_that_cannot_be_kept_is_not_acknowledged"),
            ("unit/test_chat_stream.py::test_the_end_is_not_acknowledged_if_it_cannot_be_kept"),
        ),
    ),
    Guard(
        "SQLite goes on writing into a damaged file",
        "adapters/sqlite_session.py",
        'self._condition.condemn(LOST if lost else "SQLITE_CORRUPT")',
        "pass",
        (
            (
                "integration/test_storage_faults.py::test_once_damage_is_found_nothing_is_"
                "written_until_the_file_is_opened_anew"
            ),
        ),
    ),
    Guard(
        "the other processes go on writing into a damaged file",
        "adapters/file_condition.py",
        'memoryview(mmap.mmap(-1, 5 * 8)).cast("Q")',
        "[0] * 5",
        (
            (
                "integration/test_storage_faults.py::test_what_one_process_finds_damaged_no_"
                "other_of_its_server_writes_to"
            ),
        ),
    ),
    Guard(
        "damage that a worker finds as it opens the file is not told to the others",
        "adapters/sqlite_session.py",
        "with self._opening, self._watched():",
        "with self._opening, translated():",
        (
            (
                "integration/test_storage_faults.py::test_damage_that_one_process_finds_as_it_"
                "opens_the_file_stops_the_others_too"
            ),
        ),
    ),
    Guard(
        "a worker that cannot open the file ends the server",
        "entrypoints/server.py",
        "except StorageUnavailable as error:",
        "except ZeroDivisionError as error:",
        ("unit/test_server.py::test_a_worker_begins_also_without_its_database",),
    ),
    Guard(
        "a later worker that cannot begin ends the server",
        "entrypoints/gevent_worker.py",
        "sys.exit(EXIT_FAILED)",
        "raise",
        (
            (
                "unit/test_master.py::test_a_worker_that_cannot_begin_ends_the_server_only_at_its_"
                "start[a later one]"
            ),
        ),
    ),
    Guard(
        "a server starts on a damaged file",
        "adapters/whole_file.py",
        'if found != "ok":',
        "if False:",
        (
            (
                "integration/test_storage_faults.py::test_damage_that_only_a_look_through_the_"
                "file_finds_ends_the_start"
            ),
        ),
    ),
    Guard(
        "a large log holds up the start",
        "adapters/whole_file.py",
        "connection.interrupt()",
        "pass",
        (
            (
                "integration/test_storage_faults.py::test_a_log_that_is_too_large_to_be_looked_"
                "through_is_served"
            ),
        ),
    ),
    Guard(
        "what is written into a deleted file is acknowledged",
        "adapters/group_commit.py",
        "self._check_kept()",
        "pass",
        (
            (
                "integration/test_storage_faults.py::test_what_is_written_while_the_file_"
                "goes_away_is_not_acknowledged"
            ),
        ),
    ),
    Guard(
        "a copy is taken for the file that it replaces",
        "adapters/open_files.py",
        "if not found or _id(found) != _id(known):",
        "if not found:",
        (
            (
                "integration/test_storage_faults.py::test_while_the_storage_is_down_the_code_says_"
                "why_and_nobody_is_called[a copy replaces the file]"
            ),
        ),
    ),
    Guard(
        "what is written into a file that was cut is acknowledged",
        "adapters/open_files.py",
        "if length >= least:",
        "if True:",
        (
            (
                "integration/test_storage_faults.py::test_while_the_storage_is_down_the_code_says_"
                "why_and_nobody_is_called[the file is cut]"
            ),
        ),
    ),
    Guard(
        "what is written behind the cut of a -wal is acknowledged",
        "adapters/wal_index.py",
        "return length >= needed and",
        "return",
        (
            (
                "integration/test_storage_faults.py::test_while_the_storage_is_down_the_code_says_"
                "why_and_nobody_is_called[the -wal is cut]"
            ),
        ),
    ),
    Guard(
        "the gap before what is written behind a cut is not seen",
        "adapters/wal_index.py",
        "and salts == (self.salt, self.salt)",
        "",
        (
            (
                "integration/test_storage_faults.py::test_a_file_that_is_cut_and_grows_again_is_"
                "not_taken_for_whole"
            ),
        ),
    ),
    Guard(
        "a -wal that was cut is taken for a disk that fails",
        "adapters/group_commit.py",
        "self._check()  # which knows why it cannot be read",
        "pass",
        (
            (
                "integration/test_storage_faults.py::test_a_process_that_cannot_read_a_log_of_"
                "writes_that_was_cut_says_so"
            ),
        ),
    ),
    Guard(
        "a VACUUM is taken for a loss",
        "adapters/open_files.py",
        "return not missing <= self._wal.pages(index)",
        "return self._looked or not missing <= self._wal.pages(index)",
        (
            "integration/test_storage_faults.py::test_a_file_that_was_made_short_and_grows_in_the_log_of_writes_alone_is_whole",
        ),
    ),
    Guard(
        "a file that was cut before it was opened is written to",
        "adapters/open_files.py",
        "if self._looked and index",
        "if index",
        (
            "integration/test_storage_faults.py::test_a_file_that_was_cut_before_it_was_opened_is_not_written_to",
        ),
    ),
    Guard(
        "a file is made where one was lost",
        "adapters/open_files.py",
        "if (shm or (wal and wal.st_size)) and not (file and file.st_size):",
        "if False:",
        (
            "integration/test_storage_faults.py::test_a_start_while_the_file_is_away_leaves_what_was_written_last[-wal]",
        ),
    ),
    Guard(
        "a worker that begins takes another file for the server's",
        "adapters/open_files.py",
        "if not file or condition.identity != _id(file):",
        "if False:",
        (
            "integration/test_storage_faults.py::test_a_process_that_begins_while_the_file_is_away_makes_none_in_its_place[another]",
        ),
    ),
    Guard(
        "a link to the file that was moved is taken for the file",
        "adapters/open_files.py",
        "look: Callable[[str], os.stat_result] = os.lstat",
        "look: Callable[[str], os.stat_result] = os.stat",
        (
            (
                "integration/test_storage_faults.py::test_while_the_storage_is_down_the_code_says_"
                "why_and_nobody_is_called[the file is moved behind a link]"
            ),
        ),
    ),
    Guard(
        "who begins makes another -shm than the one that was lost",
        "adapters/open_files.py",
        "if condition.fault == LOST:",
        "if False:",
        (
            "integration/test_storage_faults.py::test_what_was_seen_missing_beside_the_file_is_not_made_anew_by_a_process_that_begins[-shm]",
        ),
    ),
    Guard(
        "a link that leads to another file meanwhile is not noticed",
        "adapters/open_files.py",
        "if self._link and ",
        "if False and ",
        (
            "integration/test_storage_faults.py::test_a_link_that_leads_to_another_file_meanwhile_stops_all_until_it_leads_back",
        ),
    ),
    Guard(
        "the life sign of another user ends the server",
        "adapters/life_sign.py",
        "        except OSError:\n            return None\n        return False",
        "        except ZeroDivisionError:\n            return None\n        return False",
        (
            "integration/test_sqlite_store.py::test_of_a_life_sign_that_only_another_user_may_lock_nothing_is_known",
        ),
    ),
    Guard(
        "a service that cannot write says that it is ready",
        "adapters/sqlite_session.py",
        "self._condition.in_doubt = True",
        "pass",
        (
            (
                "integration/test_storage_faults.py::test_while_the_storage_is_down_the_code_says_"
                "why_and_nobody_is_called[files may not grow]"
            ),
        ),
    ),
    Guard(
        "the disk is filled to its last byte",
        "adapters/peewee_store.py",
        "if self._free(self._folder) < MIN_FREE_BYTES:",
        "if False:",
        (
            (
                "integration/test_storage_faults.py::test_a_disk_with_little_room_turns_new_"
                "requests_away_before_it_is_full"
            ),
        ),
    ),
    Guard(
        "a command that ends keeps another from beginning",
        "adapters/whole_file.py",
        "opened_in_time(lambda: refuse_newer(path))",
        "refuse_newer(path)",
        (
            (
                "integration/test_storage_faults.py::test_a_file_that_another_has_for_itself_is_"
                "waited_for_where_others_go_on[the start]"
            ),
        ),
    ),
    Guard(
        "an old version writes into a newer file",
        "adapters/schema.py",
        "if any(migration.path is None for migration in status):",
        "if False:",
        (
            (
                "integration/test_sqlite_store.py::test_a_file_of_a_newer_version_is_refused_"
                "and_left_as_it_is"
            ),
        ),
    ),
    Guard(
        "an id is a piece of SQL",
        "adapters/exchange_reader.py",
        "row = self._row(whole, ",
        (
            "same = [ExchangeRow.caller == caller] if caller else []\n"
            "            same.append(peewee.SQL(f\"public_id = '{exchange_id}'\"))\n"
            "            row = self._row(Compiled(ExchangeRow.select().where(*same)), "
        ),
        (
            (
                "contract/test_conversation_store.py::test_an_exchange_is_found_for_its_own_"
                "caller_only"
            ),
        ),
    ),
)

TURNS = (
    Guard(
        "the provider is called for what is not written down",
        "domain/chat.py",
        "        turn = self._open(request, earlier)\n"
        "        with turn.failing():\n"
        "            call = replace(turn.call, still_wanted=always)  # it is kept, whoever left\n"
        "            completion = self._gateway.complete(call)\n",
        "        completion = self._gateway.complete(self._call(request, "
        "History()))\n"
        "        turn = self._open(request, earlier)\n",
        ("unit/test_chat_service.py::test_the_exchange_is_open_while_the_provider_is_called",),
    ),
    Guard(
        "the last byte goes out before the commit",
        "domain/stream.py",
        "            if delta is None:\n                self._complete()\n",
        "            if delta is None:\n                self._upstream.callback(self._complete)\n",
        ("unit/test_chat_stream.py::test_the_end_is_not_acknowledged_if_it_cannot_be_kept",),
    ),
    Guard(
        "a stream without a finish reason is an answer",
        "domain/stream.py",
        "        if self._finish_reason is None:\n            raise UpstreamTruncated\n",
        '        self._finish_reason = self._finish_reason or "stop"\n',
        ("unit/test_chat_stream.py::test_a_stream_that_just_ends_is_truncated",),
    ),
    Guard(
        "a client that left is no outcome",
        "domain/stream.py",
        "self._turn.cancel(self._partial())",
        "pass",
        ("unit/test_chat_stream.py::test_a_client_that_leaves_cancels_and_what_arrived_is_kept",),
    ),
    Guard(
        "a client that left is paid for until the end",
        "domain/stream.py",
        "            self._upstream.close()\n        finally:\n            self._turn.cancel",
        "            pass\n        finally:\n            self._turn.cancel",
        (
            (
                "unit/test_chat_stream.py::test_a_client_that_leaves_cancels_and_what_"
                "arrived_is_kept"
            ),
            (
                "integration/test_v1_streams.py::test_a_client_that_leaves_in_mid_stream_"
                "ends_the_call"
            ),
        ),
    ),
)

CALLERS = (
    Guard(
        "a caller finds the exchange of another",
        "adapters/exchange_reader.py",
        "self._queries.whole if caller is None else self._queries.whole_of_caller",
        "self._queries.whole",
        (
            (
                "contract/test_conversation_store.py::test_an_exchange_is_found_for_its_own_"
                "caller_only"
            ),
        ),
    ),
    Guard(
        "a caller uses the idempotency key of another",
        "adapters/exchange_queries.py",
        '(row.caller == hole("caller")) & (row.idempotency_key == hole("idempotency_key"))',
        'row.idempotency_key == hole("idempotency_key")',
        ("contract/test_repeated_requests.py::test_another_callers_key_or_hash_is_never_found",),
    ),
    Guard(
        "a caller reads the history of another",
        "adapters/exchange_queries.py",
        'of_user = (row.caller == hole("caller")) & (row.user_id == hole("user_id"))',
        'of_user = row.user_id == hole("user_id")',
        (
            (
                "contract/test_conversation_store.py::test_other_users_and_other_callers_"
                "have_other_conversations"
            ),
        ),
    ),
    Guard(
        "a caller erases the users of another",
        "adapters/exchange_queries.py",
        "row.delete().where(of_user)",
        'row.delete().where(row.user_id == hole("user_id"))',
        (
            (
                "contract/test_conversation_store.py::test_erasing_takes_the_whole_"
                "conversation_also_an_open_turn"
            ),
            (
                "contract/test_conversation_store.py::test_other_users_and_other_callers_"
                "have_other_conversations"
            ),
        ),
    ),
    Guard(
        "a caller reads the conversations of another",
        "adapters/exchange_reader.py",
        'given: dict[str, Any] = {"caller": query.caller, ',
        "given: dict[str, Any] = {",
        ("contract/test_conversation_store.py::test_the_log_is_searched_by_every_condition",),
    ),
    Guard(
        "callers without the role administer",
        "entrypoints/flask_app.py",
        "if (access is Access.ADMIN) != (caller.role is Role.ADMIN):",
        "if False:",
        ("integration/test_authorization.py::test_whoever_is_refused_changes_nothing",),
    ),
    Guard(
        "any secret opens",
        "domain/doorkeeper.py",
        "if not proven or key is None",
        "if key is None",
        ("unit/test_doorkeeper.py::test_whatever_is_wrong_the_answer_is_the_same",),
    ),
    Guard(
        "the time of a comparison tells how far a key is right",
        "domain/doorkeeper.py",
        "hmac.compare_digest(presented.secret_hash, kept_hash)",
        "presented.secret_hash == kept_hash",
        (
            (
                "test_secret_comparisons.py::test_no_secret_is_compared_by_how_far_it_is_"
                "right[domain/doorkeeper.py]"
            ),
        ),
    ),
    Guard(
        "an expired key opens",
        "domain/keys.py",
        "if self.expires_at is not None and at >= self.expires_at:",
        "if False:",
        ("unit/test_keys.py::test_a_key_is_good_until_it_expires_or_is_revoked",),
    ),
    Guard(
        "a revoked key opens",
        "domain/keys.py",
        "if self.revoked_at is not None:",
        "if False:",
        ("unit/test_keys.py::test_a_key_is_good_until_it_expires_or_is_revoked",),
    ),
    Guard(
        "a key is remembered after its end",
        "domain/doorkeeper.py",
        "admission is not None and admission.key.is_good(self._clock.now())",
        "admission is not None",
        ("unit/test_doorkeeper.py::test_what_is_remembered_does_not_outlive_the_key",),
    ),
)

MONEY = (
    Guard(
        "a budget without room is spent",
        "adapters/sqlite_ledger.py",
        "if error := refusal(balances, asked, exchange.started_at):",
        "if error := None:",
        (
            (
                "contract/test_spending.py::test_a_budget_admits_what_fits_into_it_to_the_"
                "last_token_and_nanodollar"
            ),
        ),
    ),
    Guard(
        "the update of a budget does not look for room",
        "adapters/sqlite_ledger.py",
        "  AND tokens + reserved_tokens + ?1 <= ?6 AND nanodollars + reserved_"
        "nanodollars + ?2 <= ?7\n"
        "  AND reserved_calls < ?8\n",
        "  AND ?6 IS NOT NULL AND ?7 IS NOT NULL AND ?8 IS NOT NULL\n",
        ("integration/test_sqlite_store.py::test_the_update_of_a_budget_itself_looks_for_room",),
    ),
    Guard(
        "only the first budget holds what a call may cost",
        "adapters/sqlite_ledger.py",
        "for account, ceiling in wanted:\n            if",
        "for account, ceiling in wanted[:1]:\n            if",
        (
            (
                "contract/test_spending.py::test_users_callers_and_the_total_have_budgets_of_"
                "their_own"
            ),
        ),
    ),
    Guard(
        "an exchange is settled twice",
        "adapters/exchange_queries.py",
        ").where(is_attempt & is_open)\n        )\n        self.finish",
        ").where(is_attempt)\n        )\n        self.finish",
        ("contract/test_spending.py::test_an_exchange_is_settled_once",),
    ),
    Guard(
        "a refusal by one limit takes from another",
        "adapters/limits_counter.py",
        "                    self._undo(taken)\n",
        "",
        (
            (
                "contract/test_limit_counter.py::test_if_one_of_several_limits_refuses_none_"
                "is_charged"
            ),
        ),
    ),
    Guard(
        "a window admits more than its limit",
        "adapters/window_table.py",
        "window.previous * left / expiry + window.current) + amount <= limit",
        "window.current) <= limit",
        ("contract/test_limit_counter.py::test_the_waiting_time_is_true",),
    ),
    Guard(
        "a refusal keeps what it took from the windows",
        "domain/chat.py",
        "left = admission.release()",
        "left = admission.allowances",
        (
            (
                "integration/test_http_faults.py::test_a_store_that_cannot_begin_means_503_"
                "and_no_call"
            ),
        ),
    ),
    Guard(
        "more requests are taken than can be answered",
        "entrypoints/overload.py",
        "if sum(self._counts) >= self._most:",
        "if False:",
        ("unit/test_overload.py::test_no_more_requests_are_taken_than_may_be_in_flight",),
    ),
)

REPEATS = (
    Guard(
        "a key gets the answer to another request",
        "domain/repeats.py",
        "if found.request_hash != once.request_hash:",
        "if False:",
        ("unit/test_repeats.py::test_a_key_that_was_used_for_another_request_is_refused",),
    ),
    Guard(
        "a request is answered twice at the same time",
        "domain/repeats.py",
        "            raise IdempotencyInProgress\n",
        "            pass\n",
        ("unit/test_repeats.py::test_a_key_that_is_in_flight_is_refused",),
    ),
    Guard(
        "what may have been billed is tried again under its key",
        "domain/turn.py",
        "final=facts.may_be_billed",
        "final=False",
        ("unit/test_repeats.py::test_a_failure_that_may_be_billed_is_said_again_without_a_call",),
    ),
    Guard(
        "a call that may have been billed is made again",
        "domain/upstreams.py",
        "if error.may_be_billed or not attempts.request.still_wanted() or",
        "if not attempts.request.still_wanted() or",
        ("unit/test_upstreams.py::test_what_may_be_billed_or_will_not_pass_is_not_tried_again",),
    ),
    Guard(
        "a timeout counts as free of charge",
        "domain/errors/upstream.py",
        'in time."\n    may_be_billed = True\n',
        'in time."\n',
        (
            ("unit/test_upstreams.py::test_what_may_be_billed_or_will_not_pass_is_not_tried_again"),
            ("unit/test_repeats.py::test_the_failures_that_are_final_are_those_that_may_be_billed"),
        ),
    ),
    Guard(
        "an account without credit is asked again",
        "adapters/upstream_faults.py",
        '    "insufficient_quota": UpstreamQuotaExhausted,\n',
        "",
        (
            (
                "integration/test_upstream_faults.py::test_a_fault_of_a_plain_answer_has_its_"
                "error_and_its_outcome_and_tells_no_secret[says 429 Too Many Requests with "
                "the code 'insufficient_quota']"
            ),
        ),
    ),
    Guard(
        "what will not pass is tried again",
        "domain/upstreams.py",
        "if _is_passing(error):",
        "if True:",
        ("unit/test_upstreams.py::test_what_may_be_billed_or_will_not_pass_is_not_tried_again",),
    ),
    Guard(
        "every call may be a second attempt",
        "domain/upstreams.py",
        "allowed = self._retrying < max(FEWEST_RETRIES, RETRY_SHARE * self._active)",
        "allowed = True",
        (
            (
                "unit/test_upstreams.py::test_three_calls_at_once_may_be_second_attempts_or_"
                "a_fifth_of_all"
            ),
        ),
    ),
    Guard(
        "everybody probes at once",
        "domain/breaker.py",
        "if wait > 0 or self._probing:",
        "if wait > 0:",
        ("unit/test_breaker.py::test_one_call_alone_probes",),
    ),
    Guard(
        "the SDK tries again by itself",
        "adapters/openai_gateway.py",
        "max_retries=0",
        "max_retries=1",
        (
            (
                "integration/test_openai_gateway.py::test_a_used_connection_that_breaks_is_"
                "not_asked_a_second_time"
            ),
        ),
    ),
)

PROVIDER = (
    Guard(
        "a redirect takes the key elsewhere",
        "adapters/openai_gateway.py",
        '"follow_redirects": False',
        '"follow_redirects": True',
        (
            (
                "integration/test_upstream_faults.py::test_a_fault_of_a_plain_answer_has_its_"
                "error_and_its_outcome_and_tells_no_secret[says 307 Temporary Redirect in "
                "JSON]"
            ),
        ),
    ),
    Guard(
        "a proxy of the environment sees the prompts",
        "adapters/openai_gateway.py",
        "httpx2.Client(transport=UpstreamTransport(limits), trust_env=False)",
        "httpx2.Client()",
        ("integration/test_openai_gateway.py::test_nothing_is_taken_from_the_environment",),
    ),
    Guard(
        "an answer grows without end",
        "adapters/upstream_connection.py",
        "if size > self.limits.body_bytes:",
        "if False:",
        (
            (
                "integration/test_upstream_transport.py::test_a_body_may_be_as_large_as_the_"
                "cap_and_no_larger"
            ),
        ),
    ),
    Guard(
        "a drip goes on after the deadline",
        "adapters/upstream_connection.py",
        "        if remaining <= 0:\n            if 2",
        "        if remaining <= -1:\n            if 2",
        (
            (
                "integration/test_upstream_transport.py::test_the_total_deadline_ends_a_"
                "drip[the body]"
            ),
        ),
    ),
    Guard(
        "bytes that nobody asked for are the next answer",
        "adapters/upstream_connection.py",
        "if self._protocol.trailing_data[0]:",
        "if False:",
        (
            (
                "integration/test_openai_gateway.py::test_bytes_after_an_answer_are_not_the_"
                "next_answer"
            ),
        ),
    ),
)

SECRETS = (
    Guard(
        "the SDK's exception goes along as the context",
        "adapters/upstream_faults.py",
        "            fault.__context__ = None  # `from None` hides the original, but keeps it\n",
        "",
        (
            (
                "integration/test_upstream_faults.py::test_a_fault_of_a_plain_answer_has_its_"
                "error_and_its_outcome_and_tells_no_secret[says 401 Unauthorized in JSON]"
            ),
        ),
    ),
    Guard(
        "the SDK's exception goes along as the cause",
        "adapters/upstream_faults.py",
        "del error, _\n        try:\n            raise fault.with_traceback(None) from None",
        "try:\n            raise fault from error",
        (
            (
                "integration/test_upstream_faults.py::test_a_fault_of_a_plain_answer_has_its_"
                "error_and_its_outcome_and_tells_no_secret[says 401 Unauthorized in JSON]"
            ),
        ),
    ),
    Guard(
        "keys in the provider's words are passed on",
        "adapters/upstream_words.py",
        '    return KEY_LIKE.sub("***", said)',
        "    return said",
        ("integration/test_v1_faults.py::test_no_secret_is_passed_on",),
    ),
    Guard(
        "the log keeps a key that the provider has written in codes",
        "adapters/upstream_words.py",
        "if _hides_key(said[: 2 * LONGEST_WORDS], key):",
        "if False:",
        (
            "integration/test_what_the_provider_said.py::test_nothing_where_a_key_is_written_in_codes_or_in_pieces[JSON]",
        ),
    ),
    Guard(
        "the id of a call holds a key",
        "adapters/upstream_faults.py",
        "fault.upstream_request_id = id_of_call(fault.upstream_request_id, self._key)",
        "pass",
        (
            (
                "integration/test_what_the_provider_said.py::"
                "test_no_key_in_the_id_of_a_call[memory-401 No-v1]"
            ),
        ),
    ),
    Guard(
        "hidden work counts as none when the provider fails after it",
        "adapters/openai_answers.py",
        "self._paid = self._paid or said_bytes > 0 or bool(usage and usage.completion_tokens)",
        "pass",
        (
            "integration/test_v1_idempotency.py::test_an_error_event_after_work_that_nobody_reads_is_final[counts]",
        ),
    ),
    Guard(
        "many words are taken for no tokens",
        "adapters/provider_usage.py",
        "self._uncounted if usage.completion_tokens else said_bytes",
        "self._uncounted if usage.completion_tokens else 0",
        ("unit/test_openai_answers.py::test_no_tokens_for_many_words_are_not_believed[True]",),
    ),
    Guard(
        "a part of the provider's key is shown",
        "adapters/upstream_words.py",
        "return KEY_LIKE.search(hidden) is not None or not _pieces(key).isdisjoint(seen)",
        "return KEY_LIKE.search(hidden) is not None",
        ("integration/test_what_the_provider_said.py::test_no_part_of_a_key[part0-mixed]",),
    ),
    Guard(
        "an empty account is told in the provider's words",
        "adapters/upstream_faults.py",
        "if self._relayed and type(fault) not in FOR_OPERATORS:",
        "if self._relayed:",
        (
            (
                "integration/test_v1_faults.py::"
                "test_what_is_not_the_callers_mistake_is_told_in_our_words["
                "plain-400 Bad Request-insufficient_quota-503-upstream_quota_exhausted-false-None]"
            ),
        ),
    ),
    Guard(
        "a head's tokens are an answer",
        "domain/model.py",
        "(self._counts_words and not self.is_head)",
        "self._counts_words",
        (
            (
                "unit/test_upstreams.py::"
                "test_a_thought_is_an_answer_too_and_a_head_is_none[Anthropic's head]"
            ),
        ),
    ),
    Guard(
        "a long answer takes the square of its length",
        "entrypoints/whole_exchange.py",
        "            whole[name] = text = _Text([text])\n",
        "            whole[name] = text + piece\n            return\n",
        (
            (
                "unit/test_whole_exchange.py::"
                "test_a_long_answer_takes_no_longer_for_each_of_its_pieces"
            ),
        ),
    ),
    Guard(
        "words are counted by a prompt that is counted anew",
        "adapters/provider_usage.py",
        "self._uncounted if usage.completion_tokens else said_bytes",
        "0 if usage.completion_tokens else said_bytes",
        (
            (
                "unit/test_openai_answers.py::"
                "test_a_prompt_that_is_counted_anew_counts_no_words[5000-3000-head0-True]"
            ),
        ),
    ),
    Guard(
        "thoughts that are in the total alone are free",
        "adapters/provider_usage.py",
        "completion_tokens=max(completion, total - prompt)",
        "completion_tokens=completion",
        (
            "unit/test_openai_answers.py::test_what_is_in_the_total_alone_is_paid_for_too[usage0-1009-True]",
        ),
    ),
    Guard(
        "what may be billed before the first word is free",
        "domain/turn.py",
        "if not said and (error.may_be_billed or state is State.INTERRUPTED):",
        "if not partial.answer and (error.may_be_billed or state is State.INTERRUPTED):",
        (
            (
                "integration/test_v1_streams.py::test_before_the_first_word_what_may_be_billed_"
                "counts_as_much_as_it_may_be[/v1/chat/completions-a head]"
            ),
        ),
    ),
    Guard(
        "a head's tokens are all that may be billed",
        "domain/turn.py",
        "(counted and not partial.is_head)",
        "counted",
        (
            (
                "integration/test_v1_streams.py::test_before_the_first_word_what_may_be_billed_"
                "counts_as_much_as_it_may_be[/v1/chat/completions-Anthropic's head]"
            ),
        ),
    ),
    Guard(
        "a usage that is repeated counts what was said beside it",
        "adapters/provider_usage.py",
        "elif usage.completion_tokens != before.completion_tokens:",
        "else:",
        (
            (
                "unit/test_openai_answers.py::"
                "test_counts_that_only_come_again_count_no_words[end5-True]"
            ),
        ),
    ),
    Guard(
        "the counts of an error are lost",
        "adapters/openai_answers.py",
        "deltas.extend(self._told_by(fault))",
        "pass",
        (
            (
                "integration/test_v1_streams.py::test_counts_in_the_event_that_ends_a_stream_"
                "badly_are_kept[/v1/chat/completions-an error-True]"
            ),
        ),
    ),
    Guard(
        "an error that counts nothing costs a prompt",
        "adapters/openai_answers.py",
        "if usage is not None and (usage.prompt_tokens or usage.completion_tokens):",
        "if usage is not None:",
        ("integration/test_v1_streams.py::test_an_error_that_counts_nothing_costs_nothing",),
    ),
    Guard(
        "what is counted of an answer that is of no use is free",
        "domain/turn.py",
        "partial.usage or error.usage",
        "partial.usage",
        (
            (
                "integration/test_v1_answers.py::test_what_is_counted_of_an_answer_that_is_of_"
                "no_use_is_used[/v1/chat/completions-an empty stop]"
            ),
        ),
    ),
    Guard(
        "a provider's name is looked up as another",
        "adapters/upstream_transport.py",
        'url.raw_host.decode("ascii")',
        "url.host",
        ("integration/test_upstream_transport.py::test_a_name_in_ascii_is_looked_up_as_it_is",),
    ),
    Guard(
        "a cut -shm hides what was acknowledged from a new worker",
        "adapters/open_files.py",
        'if _stays_cut(f"{os.path.realpath(path)}-shm"):',
        "if False:",
        (
            "integration/test_storage_faults.py::test_a_worker_that_begins_beside_a_shm_that_was_cut_stops_them_all",
        ),
    ),
    Guard(
        "who leaves while the model thinks is not missed",
        "entrypoints/sse.py",
        "if delta != SILENCE and time.monotonic() - quiet_since < QUIET_SECONDS:",
        "if delta != SILENCE:",
        ("unit/test_openai_stream.py::test_who_leaves_while_nothing_is_shown_is_missed",),
    ),
    Guard(
        "an exception's own text is logged",
        "entrypoints/access_log.py",
        "record.exc_info[0].__name__",
        "str(record.exc_info[1])",
        (
            (
                "integration/test_http_faults.py::test_a_line_of_the_log_names_an_exception_"
                "without_its_text"
            ),
        ),
    ),
    Guard(
        "a text breaks out of its line of the log",
        "entrypoints/access_log.py",
        "return json.dumps(line)",
        'return str(line["message"])',
        ("integration/test_http_faults.py::test_a_line_of_the_log_stays_one_line",),
    ),
    Guard(
        "libraries log what is said",
        "entrypoints/access_log.py",
        "logging.getLogger(name).setLevel(logging.WARNING)",
        "logging.getLogger(name)",
        ("unit/test_server.py::test_libraries_that_log_what_is_said_are_quiet",),
    ),
    Guard(
        "a secret is printed",
        "entrypoints/setting_values.py",
        'return "***"',
        "return self._text",
        ("unit/test_settings.py::test_a_secret_is_printed_as_three_stars",),
    ),
    Guard(
        "the log says whose conversation is read",
        "entrypoints/access_log.py",
        "request.url_rule.rule if request.url_rule else None",
        "request.path",
        ("integration/test_http_faults.py::test_the_access_log_holds_no_user_id_of_a_path",),
    ),
    Guard(
        "SQLite's error goes along, with values",
        "adapters/sqlite_faults.py",
        "raise translate(error) from None",
        "raise translate(error) from error",
        ("integration/test_sqlite_store.py::test_a_database_error_tells_neither_values_nor_sql",),
    ),
)

REQUESTS = (
    Guard(
        "a client sends the request, or a key, elsewhere",
        "entrypoints/relayed_request.py",
        'frozenset({"api_base", ',
        "frozenset({",
        ("unit/test_relayed_request.py::test_a_forbidden_name_is_refused_at_every_level",),
    ),
    Guard(
        "a forbidden name hides behind escapes",
        "entrypoints/relayed_request.py",
        " and not HIDING.search(asked.text)",
        "",
        ("unit/test_relayed_request.py::test_a_forbidden_name_cannot_hide_behind_escapes",),
    ),
    Guard(
        "JSON nests without end",
        "entrypoints/strict_json.py",
        "    if brackets:\n",
        "    if False:\n",
        ("unit/test_strict_json.py::test_32_levels_are_taken_and_33_are_refused",),
    ),
    Guard(
        "of two values of a key the last one counts",
        "entrypoints/strict_json.py",
        "if len(value) < len(pairs):",
        "if False:",
        ("unit/test_strict_json.py::test_what_python_takes_beyond_json_is_refused",),
    ),
    Guard(
        "NaN is a number",
        "entrypoints/strict_json.py",
        "    parse_constant=_constant,\n",
        "",
        ("unit/test_strict_json.py::test_what_python_takes_beyond_json_is_refused",),
    ),
    Guard(
        "bytes that are no text are read as some text",
        "entrypoints/strict_json.py",
        'body.decode("utf-8")',
        'body.decode("utf-8", "replace")',
        ("unit/test_strict_json.py::test_bytes_that_are_not_utf_8_are_refused",),
    ),
    Guard(
        "a NUL reaches the database",
        "entrypoints/relayed_request.py",
        "good = not NUL.search(asked.text)",
        "good = True",
        (
            (
                "unit/test_relayed_request.py::test_a_nul_or_half_a_pair_is_refused_wherever_"
                "it_stands"
            ),
        ),
    ),
    Guard(
        "half of a surrogate pair reaches the database",
        "entrypoints/relayed_request.py",
        "if good and SURROGATE.search(asked.text):",
        "if False:",
        (
            (
                "unit/test_relayed_request.py::test_a_nul_or_half_a_pair_is_refused_wherever_"
                "it_stands"
            ),
        ),
    ),
    Guard(
        "a body of any length is read",
        "entrypoints/flask_app.py",
        "MAX_CONTENT_LENGTH=max_body_bytes, ",
        "",
        (
            (
                "integration/test_http_requests.py::test_a_length_that_is_too_large_is_"
                "refused_before_the_body_is_read"
            ),
        ),
    ),
    Guard(
        "a chunked body of any length is taken",
        "entrypoints/request_body.py",
        "if len(body) > largest:",
        "if False:",
        (
            (
                "integration/test_http_requests.py::test_a_chunked_body_that_grows_too_large_"
                "is_neither_read_to_its_end_nor_cut"
            ),
        ),
    ),
    Guard(
        "an answer is kept by a browser or a proxy",
        "entrypoints/flask_app.py",
        '    "Cache-Control": "no-store",\n',
        "",
        ("integration/test_http_completion.py::test_nothing_may_keep_an_answer",),
    ),
    Guard(
        "a browser guesses what an answer is",
        "entrypoints/flask_app.py",
        '    "X-Content-Type-Options": "nosniff",\n',
        "",
        (
            (
                "integration/test_http_routes.py::test_every_answer_has_a_request_id_and_is_"
                "kept_by_nobody"
            ),
        ),
    ),
    Guard(
        "an answer may be framed and run",
        "entrypoints/flask_app.py",
        "    \"Content-Security-Policy\": \"default-src 'none'; frame-ancestors 'none'\",\n",
        "",
        (
            (
                "integration/test_http_routes.py::test_every_answer_has_a_request_id_and_is_"
                "kept_by_nobody"
            ),
        ),
    ),
    Guard(
        "a client names its request, and the line of the log",
        "entrypoints/flask_app.py",
        "AccessLine(secrets.token_hex(16))",
        'AccessLine(request.headers.get("X-Request-Id", "") or secrets.token_hex(16))',
        ("integration/test_http_completion.py::test_a_request_id_of_the_client_is_not_taken",),
    ),
)

QUERIES = (
    Guard(
        "one of two filters is not heeded",
        "entrypoints/request_query.py",
        "len(request.args.getlist(name)) > 1",
        "False",
        ("integration/test_http_queries.py::test_a_field_that_is_given_twice_is_refused",),
    ),
    Guard(
        "a filter of bytes that are no text is another filter",
        "entrypoints/request_query.py",
        'unquote_to_bytes(request.query_string.decode("ascii")).decode("utf-8")',
        'request.query_string.decode("ascii")',
        (
            (
                "integration/test_http_queries.py::test_bytes_that_are_no_text_are_refused_"
                "on_every_route"
            ),
        ),
    ),
    Guard(
        "a query has bytes that its server should not have let through",
        "entrypoints/request_query.py",
        'request.query_string.decode("ascii")',
        'request.query_string.decode("latin-1")',
        ("integration/test_http_queries.py::test_bytes_that_are_not_ascii_are_refused",),
    ),
)

TERMINAL = (
    Guard(
        "what a stranger said commands the terminal",
        "entrypoints/terminal.py",
        "unicodedata.category(char) not in UNSEEN",
        'unicodedata.category(char) != "Cs"',
        (
            (
                "unit/test_terminal.py::test_nothing_unseen_but_newline_tab_and_what_joins_"
                "letters_is_left"
            ),
        ),
    ),
    Guard(
        "an export commands the terminal",
        "entrypoints/log_cli.py",
        "output.write(json.dumps(encode(exchange))",
        "output.write(json.dumps(encode(exchange), ensure_ascii=False)",
        (("integration/test_cli_log.py::test_nothing_that_was_said_can_command_the_terminal"),),
    ),
    Guard(
        "a spreadsheet computes the name of a model",
        "entrypoints/usage_cli.py",
        'unicodedata.normalize("NFKC", name)',
        "name",
        ("integration/test_cli_usage.py::test_no_name_is_a_formula",),
    ),
    Guard(
        "a caller's name with a slip in it purges nothing, every night",
        "entrypoints/purge_cli.py",
        "if caller is not None and not _is_known(store, caller):",
        "if False:",
        ("integration/test_cli_purge.py::test_a_caller_whom_nobody_knows_is_no_caller",),
    ),
)

RECKONING = (
    Guard(
        "a provider that is back is left alone again at its first failure",
        "domain/breaker.py",
        "        self._failed_lately.clear()\n",
        "",
        ("unit/test_breaker.py::test_a_probe_that_succeeds_forgets_the_last_twenty",),
    ),
    Guard(
        "calls that are over allow more and more second attempts",
        "domain/upstreams.py",
        "                self._active -= 1",
        "                pass",
        (
            (
                "unit/test_upstreams.py::test_three_calls_at_once_may_be_second_attempts_or_"
                "a_fifth_of_all"
            ),
        ),
    ),
    Guard(
        "what was reserved for an answer that cannot be kept stays reserved",
        "domain/turn.py",
        "        finally:\n            self._admission.settle(usage)",
        "        except ZeroDivisionError:\n            self._admission.settle(usage)",
        (("unit/test_chat_service.py::test_an_answer_that_cannot_be_kept_has_used_what_it_used"),),
    ),
    Guard(
        "a purge forgets the calls in flight",
        "adapters/sqlite_retention.py",
        '"period = ? AND reserved_calls = 0"',
        '"period = ?"',
        (
            (
                "contract/test_spending.py::test_a_count_of_calls_in_flight_goes_with_its_"
                "user_or_when_nothing_is_in_flight"
            ),
        ),
    ),
    Guard(
        "an answer that nobody wants any more is waited for",
        "adapters/upstream_connection.py",
        "if still_wanted is not None and not still_wanted():",
        "if False:",
        (
            (
                "integration/test_upstream_transport.py::test_an_answer_that_nobody_wants_any_"
                "more_is_not_waited_for"
            ),
        ),
    ),
    Guard(
        "a caller is told that its work is kept, though its leader was killed before the commit",
        "adapters/group_commit.py",
        "            if not self._committed:\n",
        "            if False:\n",
        (
            (
                "integration/test_sqlite_store.py::test_callers_are_told_what_became_of_their_"
                "work_when_their_leader_is_killed"
            ),
        ),
    ),
    Guard(
        "what was taken of a window that is over is never given back",
        "adapters/window_table.py",
        "elif window.start == start + expiry:",
        "elif False:",
        (("unit/test_window_table.py::test_what_was_taken_is_corrected_and_stays_above_0"),),
    ),
    Guard(
        "clients that have left take the places of those who are still to get their answer",
        "entrypoints/client_deadlines.py",
        "                Client.lingering -= 1",
        "                pass",
        (
            (
                "unit/test_client_deadlines.py::test_a_connection_that_has_lingered_makes_"
                "room_for_the_next"
            ),
        ),
    ),
)

CLOCK = (
    Guard(
        "a clock that is set forward ends a live call of this process",
        "adapters/life_sign.py",
        'return over and not self.leases.holds(row["public_id"])',
        "return over",
        (
            "integration/test_clock.py::test_a_clock_that_is_set_at_any_step_ends_no_call_and_reverses_no_order[0]",
        ),
    ),
    Guard(
        "a clock that is set forward ends a live call of another process",
        "adapters/life_sign.py",
        "(over and not lives(owner))",
        "over",
        (
            "integration/test_clock.py::test_a_clock_that_is_set_at_any_step_ends_no_call_and_reverses_no_order[0]",
        ),
    ),
    Guard(
        "a clock that is set back reverses the times of a conversation",
        "domain/model.py",
        "return replace(self, started_at=latest + INSTANT)",
        "return self",
        ("integration/test_clock.py::test_times_never_decrease",),
    ),
    Guard(
        "a log that is dated a year ahead holds all times there",
        "domain/model.py",
        "<= LONGEST_SETBACK:",
        "< timedelta.max:",
        ("integration/test_clock.py::test_a_log_that_is_dated_far_ahead_is_not_followed",),
    ),
    Guard(
        "an answer that could not be kept holds its conversation",
        "adapters/peewee_store.py",
        "            self.session.lose(exchange.id)\n",
        "",
        ("integration/test_clock.py::test_an_answer_that_could_not_be_kept_holds_nobody_up",),
    ),
    Guard(
        "what is open for too long stays so while its process lives",
        "adapters/own_leases.py",
        "            if end > now:\n                break\n            found.append(exchange_id)",
        "            break",
        (
            "integration/test_clock.py::test_what_is_open_for_too_long_makes_room_whatever_the_clock_says",
        ),
    ),
    Guard(
        "the dead are not found beside a file whose name is a pattern",
        "adapters/life_sign.py",
        "glob.escape(prefix)",
        "prefix",
        ("integration/test_clock.py::test_the_dead_are_found_whatever_the_file_is_called",),
    ),
)

HOSTILE = (
    Guard(
        "a look for a client fails where many sockets are open",
        "entrypoints/client_presence.py",
        "            return bool(connection.recv(1, socket.MSG_PEEK))",
        (
            '            __import__("select").select([connection], [], [], 0)\n    '
            "        return bool(connection.recv(1, socket.MSG_PEEK))"
        ),
        ("unit/test_client_presence.py",),
    ),
    Guard(
        "text that looks like an image is reserved as one",
        "entrypoints/relayed_request.py",
        "IMAGE_DATA.fullmatch(url)",
        "url",
        ("unit/test_relayed_request.py::test_what_the_model_may_read_as_text_is_counted_as_text",),
    ),
    Guard(
        "a record of TLS that drips has no deadline",
        "adapters/tls_socket.py",
        "        if left <= 0:\n            raise TimeoutError\n        return left",
        "        return 5.0",
        ("integration/test_upstream_tls.py::test_a_handshake_has_the_time_of_a_connection",),
    ),
    Guard(
        "a slow client opens the breaker of a healthy provider",
        "adapters/upstream_connection.py",
        "if 2 * self._away > time.monotonic() - self._began:",
        "if False:",
        (
            "integration/test_upstream_transport.py::test_a_client_that_is_slow_is_to_blame_when_the_time_is_up",
        ),
    ),
    Guard(
        "a flood that says nothing has no end",
        "adapters/upstream_connection.py",
        "if self._arrived_bytes > RAW_FACTOR * self.limits.body_bytes + MAX_HEADER_BYTES:",
        "if False:",
        (
            "integration/test_upstream_transport.py::test_a_flood_that_says_nothing_has_an_end_and_leaves_others_their_turn",
        ),
    ),
    Guard(
        "a flood leaves others no turn",
        "adapters/upstream_connection.py",
        "            let_others_run()\n",
        "            pass\n",
        (
            "integration/test_upstream_transport.py::test_a_flood_that_says_nothing_has_an_end_and_leaves_others_their_turn",
        ),
    ),
    Guard(
        "the text of an error decides, and not its status",
        "adapters/upstream_transport.py",
        "refused = head.status_code >= REFUSALS_FROM",
        "refused = False",
        (
            "integration/test_upstream_transport.py::test_the_status_of_an_error_counts_whatever_becomes_of_its_text",
        ),
    ),
    Guard(
        "a head without a word counts as an answer",
        "domain/upstreams.py",
        "if not begun and delta.says_something:",
        "if not begun:",
        ("unit/test_upstreams.py::test_a_head_alone_does_not_bring_a_provider_back",),
    ),
    Guard(
        "a place is kept for ever when a stream cannot be closed well",
        "entrypoints/sse.py",
        '    except ChatportError as error:\n        logger.warning("the outcome',
        '    except ZeroDivisionError as error:\n        logger.warning("the outcome',
        (
            "integration/test_http_overload.py::test_a_place_is_given_back_although_the_outcome_could_not_be_kept",
        ),
    ),
    Guard(
        "who is still sending holds a place",
        "entrypoints/flask_app.py",
        "        counted.check()\n",
        "        counted.enter()\n        g.closing.callback(counted.leave)\n",
        ("integration/test_http_overload.py::test_who_is_still_sending_holds_no_place",),
    ),
    Guard(
        "a body in very many chunks holds up all others",
        "entrypoints/client_deadlines.py",
        "            let_others_run()  # however fast this one sends\n        if self._silent",
        "            pass\n        if self._silent",
        ("unit/test_client_deadlines.py::test_who_sends_much_gives_others_their_turn",),
    ),
    Guard(
        "requests that follow each other at once hold up all others",
        "entrypoints/client_deadlines.py",
        "        let_others_run()\n        self._silent = self._is_reused = True\n",
        "        self._silent = self._is_reused = True\n",
        ("unit/test_client_deadlines.py::test_who_sends_much_gives_others_their_turn",),
    ),
    Guard(
        "a list of models that fails closes the way to all answers",
        "domain/upstreams.py",
        "self._attempts(self._lists, ",
        "self._attempts(self._chats, ",
        (
            "faults/test_open_breaker.py::test_a_provider_whose_list_of_models_fails_is_asked_for_answers",
        ),
    ),
    Guard(
        "an error's encoding decides, and not its status",
        "adapters/upstream_transport.py",
        "{ENCODING, CONTENT_TYPE} if refused else {ENCODING}",
        "{ENCODING}",
        (
            (
                "faults/test_modes.py::test_a_fault_has_its_status_its_code_its_row_and_its_time"
                "[says 401 in utf-16-plain]"
            ),
        ),
    ),
    Guard(
        "the log keeps a key that the provider has quoted",
        "adapters/upstream_faults.py",
        "fault.upstream_said = quoted(fault.upstream_said, self._key)",
        "pass",
        ("integration/test_what_the_provider_said.py::test_no_key",),
    ),
    Guard(
        "calls of tools and thoughts cost nothing",
        "adapters/said_sizes.py",
        "        return thoughts + sum(sizes.values())\n",
        "        return sizes.get('content', 0)\n",
        (
            (
                "integration/test_v1_streams.py::test_whatever_a_model_says_is_estimated_where_"
                "no_usage_comes[a tool call-done]"
            ),
        ),
    ),
    Guard(
        "a user is erased in one transaction",
        "domain/retention.py",
        "        yield from self._steps(span)\n        yield Purged(count=self._store.erase(c",
        "        yield Purged(count=self._store.erase(c",
        ("unit/test_retention.py::test_a_user_is_erased_in_steps_and_what_is_open_at_last",),
    ),
    Guard(
        "what was left open is looked for at the start alone",
        "entrypoints/server.py",
        "    threading.Thread(target=again, daemon=True).start()\n",
        "",
        ("unit/test_server.py::test_what_could_not_be_closed_at_the_start_is_closed_later",),
    ),
    Guard(
        "what is deleted while others tidy is never tidied",
        "adapters/sqlite_retention.py",
        "WHERE name = 'untidy' AND value = ?\"",
        "WHERE name = 'untidy' AND value IS NOT ?\"",
        (
            "integration/test_purge.py::test_what_is_deleted_while_another_tidies_is_tidied_by_the_next",
        ),
    ),
    Guard(
        "a setting without a value takes a limit away",
        "entrypoints/environment.py",
        "if each.error or (each.key and each.value is None)",
        "if each.error",
        ("unit/test_environment.py::test_a_name_alone_is_a_problem_and_sets_nothing",),
    ),
    Guard(
        "what nobody wanted is read chunk by chunk",
        "entrypoints/client_deadlines.py",
        '"length", DRAINED_BYTES)',
        '"length", 0)',
        ("unit/test_client_deadlines.py::test_of_what_nobody_wanted_a_little_is_read",),
    ),
    Guard(
        "all who use a key look it up at once",
        "domain/doorkeeper.py",
        "            if first is mine:\n",
        "            if True:\n",
        ("unit/test_doorkeeper.py::test_one_looks_a_key_up_for_all_who_use_it",),
    ),
    Guard(
        "who has waited for a look in vain waits once more",
        "domain/doorkeeper.py",
        "            if first.failure is not None:\n",
        "            if False:\n",
        (
            (
                "unit/test_doorkeeper.py::test_where_the_first_cannot_look_the_others_do_not_wait_"
                "for_the_same_once_more"
            ),
        ),
    ),
    Guard(
        "a stop takes an answer from whom it was kept for",
        "domain/turn.py",
        "or not is_kept:",
        "or True:",
        (
            (
                "unit/test_chat_service.py::test_a_stop_while_the_answer_is_written_takes_it_from_"
                "nobody[True]"
            ),
        ),
    ),
    Guard(
        "a call meets the end of a connection that was announced",
        "adapters/upstream_connection.py",
        "min(self.limits.idle, _kept_seconds(event))",
        "self.limits.idle",
        (
            (
                "integration/test_upstream_transport.py::test_a_connection_that_the_provider_is_"
                "about_to_close_is_replaced[timeout=1-connections0]"
            ),
        ),
    ),
    Guard(
        "an answer that was broken off is whole",
        "adapters/openai_answers.py",
        '_is_failed(answer.get("choices"), BROKEN_OFF)',
        '_is_failed(answer.get("choices"))',
        (
            (
                "faults/test_modes.py::test_a_fault_has_its_status_its_code_its_row_and_its_time"
                "[breaks off, with 'error' as its reason-plain]"
            ),
        ),
    ),
    Guard(
        "an unknown model opens the breaker for all",
        "domain/upstreams.py",
        "if is_answer or isinstance(error, UpstreamModelUnavailable):",
        "if is_answer:",
        (
            (
                "unit/test_upstreams.py::test_a_refusal_of_the_request_says_that_the_provider_is_"
                "well[error1]"
            ),
        ),
    ),
    Guard(
        "a long answer holds up all others while it comes",
        "adapters/upstream_connection.py",
        "EVENTS_A_READ + len(data) // BYTES_AN_EVENT",
        "EVENTS_A_READ",
        (
            (
                "integration/test_upstream_transport.py::test_a_long_answer_leaves_others_a_turn_"
                "after_each_of_its_reads"
            ),
        ),
    ),
    Guard(
        "a turn that is given away is none for those who have something to read",
        "adapters/turns.py",
        "TURN_SECONDS = 1e-6",
        "TURN_SECONDS = 0",
        (
            "unit/test_server.py::test_who_gives_a_turn_to_others_gives_it_also_to_those_who_have_something_to_read",
        ),
    ),
    Guard(
        "a client whose words are quoted empties the account for all",
        "adapters/upstream_faults.py",
        "if re.fullmatch(form, message, re.DOTALL))",
        "if re.match(form, message))",
        (
            (
                "integration/test_v1_faults.py::test_a_client_whose_words_are_quoted_does_not_"
                "empty_the_account[Your credit balance is too low.-{} is not a valid model ID]"
            ),
        ),
    ),
)

SUBJECTS = (
    *(STORAGE, TURNS, CALLERS, MONEY, REPEATS, PROVIDER, SECRETS, REQUESTS, QUERIES, RECKONING),
    *(TERMINAL, CLOCK, HOSTILE),
)
GUARDS = tuple(guard for subject in SUBJECTS for guard in subject)
FIRST = tuple(guard for subject in SUBJECTS for guard in subject[:2])
"""Those that are taken out in each run of the tests; `make guards` takes out all of them."""
