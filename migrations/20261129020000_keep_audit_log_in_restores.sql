-- Keep the audit log through a restore that has its schema before its data, and tally what is written to it.
--
-- Locks:   audit_log: access exclusive while the entries that are there are tallied, some three seconds for each million; who
--          writes an entry waits.
-- Rollout: expand. From here on each statement that appends entries costs one more insert.
-- Undo:    drop trigger audit_log_tally, app.tally_audit_log, app.audit_fold and both tables; make app.stamp_audit_log as
--          20261121000300 does.

set local role spine_owner;

-- How entries are added up: by exclusive or, so that their order does not matter.
create function app.audit_fold(digest bytea) returns bigint language sql immutable set search_path = ''
    return ('x' || encode(substr(digest, 1, 8), 'hex'))::bit(64)::bigint;
comment on function app.audit_fold(bytea) is 'The first eight bytes of a digest as a number. Folds are added up by bit_xor.';
grant execute on function app.audit_fold(bytea) to spine_definer;

create table app.audit_tallies (
    org_id  uuid,
    xact    xid8   not null,
    entries bigint not null,
    fold    bigint not null
);
comment on table app.audit_tallies is
    'What was appended to the audit log, a row for each statement and organisation, in the same transaction. A backup carries both, so that ./spine restore-check finds what a restore has lost or changed.';

create table app.audit_loads (
    id         uuid        primary key default app.uuidv7(),
    loaded_at  timestamptz not null default clock_timestamp(),
    loaded_by  name        not null default session_user,
    entries    bigint      not null,
    checked_at timestamptz
);
comment on table app.audit_loads is
    'Entries that were loaded in replica mode, past the stamp: a restore, or somebody who may set that mode. checked_at is when ./spine restore-check has reported it.';

alter table app.audit_tallies enable row level security;
alter table app.audit_tallies force row level security;
alter table app.audit_loads enable row level security;
alter table app.audit_loads force row level security;
create policy audit_tallies_definer_insert on app.audit_tallies for insert to spine_definer with check (true);
grant insert on app.audit_tallies to spine_definer;

create trigger audit_tallies_refuse_change before update or delete or truncate on app.audit_tallies
    for each statement execute function app.refuse_change();
alter table app.audit_tallies enable always trigger audit_tallies_refuse_change;

-- Nobody chooses when an entry was made or what its digest is. In replica mode, which only a superuser sets or who was granted it, an
-- entry that comes with its stamps is restored: it keeps them, and must be what its digest says.
create or replace function app.stamp_audit_log() returns trigger language plpgsql set search_path = '' as $$
begin
    if new.digest is not null and current_setting('session_replication_role') = 'replica' then
        if new.digest is distinct from app.audit_digest(new) then
            raise exception 'audit entry % is not as it was written', new.id using errcode = 'data_corrupted';
        end if;
        return new;
    end if;
    new.occurred_at := clock_timestamp();
    new.xact := pg_current_xact_id();
    new.digest := app.audit_digest(new);
    return new;
end
$$;

-- An entry of this transaction is tallied. One of another transaction was loaded, and its tally is loaded too.
create function app.tally_audit_log() returns trigger language plpgsql set search_path = '' as $$
declare
    v_xact xid8 := pg_current_xact_id();
begin
    insert into app.audit_tallies (org_id, xact, entries, fold)
    select n.org_id, v_xact, count(*), bit_xor(app.audit_fold(n.digest)) from new_rows n where n.xact = v_xact group by n.org_id;
    if current_setting('session_replication_role') = 'replica' then
        insert into app.audit_loads (entries) select count(*) from new_rows n where n.xact <> v_xact having count(*) > 0;
    end if;
    return null;
end
$$;
comment on function app.tally_audit_log() is 'Tallies the entries that a statement appends, and records those that were loaded.';
create trigger audit_log_tally after insert on public.audit_log referencing new table as new_rows
    for each statement execute function app.tally_audit_log();
alter table public.audit_log enable always trigger audit_log_tally;

-- Not even the owner sees rows under forced row-level security. The lock lasts to the end, so that no entry is missed.
alter table public.audit_log no force row level security;
alter table app.audit_tallies no force row level security;
insert into app.audit_tallies (org_id, xact, entries, fold)
select a.org_id, a.xact, count(*), bit_xor(app.audit_fold(a.digest)) from public.audit_log a group by a.org_id, a.xact;
alter table app.audit_tallies force row level security;
alter table public.audit_log force row level security;

reset role;
