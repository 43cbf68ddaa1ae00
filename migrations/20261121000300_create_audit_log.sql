-- Create the audit log, its subject keys and the error log.
--
-- Locks:   none on existing tables.
-- Rollout: expand.
-- Undo:    none intended; an audit log that can be dropped by a migration is not one.

set local role spine_owner;

create table public.subject_keys (
    org_id       uuid        not null,
    subject_id   uuid        not null,
    wrapped_key  text,
    destroyed_at timestamptz,
    created_at   timestamptz not null default now(),
    primary key (org_id, subject_id),
    constraint subject_keys_wrapped_key_check check ((wrapped_key is null) = (destroyed_at is not null))
);
comment on table public.subject_keys is
    'A key per person and organisation, wrapped by a key that never enters the database. Destroying it erases the person from the audit log.';

create table public.audit_log (
    id            uuid        primary key default app.uuidv7(),
    org_id        uuid,
    occurred_at   timestamptz not null,
    user_id       uuid,
    agent_id      uuid,
    actor         text        not null,
    action        text        not null,
    resource_type text        not null,
    record_id     text,
    input         jsonb,
    decision      jsonb,
    output        jsonb,
    metadata      jsonb       not null default '{}',
    old_values    jsonb,
    new_values    jsonb,
    ip            text,
    user_agent    text,
    request_id    text,
    subject_ids   uuid[]      not null default '{}',
    digest        bytea       not null,
    xact          xid8        not null,

    constraint audit_log_actor_check check (actor in ('user', 'agent', 'system')),
    constraint audit_log_action_check check (length(action) between 1 and 100),
    -- A row is bounded: what is larger is referred to, not copied.
    constraint audit_log_size_check check (
        coalesce(pg_column_size(input), 0) + coalesce(pg_column_size(decision), 0) + coalesce(pg_column_size(output), 0)
        + pg_column_size(metadata) <= 262144)
);
comment on table public.audit_log is
    'What was done, by whom, on what grounds, with what result. Append only; it outlives what it speaks of, so it has no foreign keys.';
comment on column public.audit_log.ip is 'Sealed under the actor''s subject key, as is user_agent.';
comment on column public.audit_log.digest is 'SHA-256 over the row as app.audit_digest spells it.';
create index audit_log_org_id_occurred_at_idx on public.audit_log (org_id, occurred_at desc);
create index audit_log_org_id_record_id_idx on public.audit_log (org_id, resource_type, record_id);

create function app.audit_digest(entry public.audit_log) returns bytea
    language sql immutable set search_path = '' set timezone = 'UTC' set datestyle = 'ISO' as $$
    select sha256(convert_to(jsonb_build_array(
        'spine audit 1', entry.id, entry.org_id, extract(epoch from entry.occurred_at)::text, entry.user_id, entry.agent_id, entry.actor,
        entry.action, entry.resource_type, entry.record_id, entry.input, entry.decision, entry.output, entry.metadata,
        entry.old_values, entry.new_values, entry.ip, entry.user_agent, entry.request_id, entry.subject_ids,
        entry.xact::text)::text, 'UTF8'))
$$;
comment on function app.audit_digest(public.audit_log) is
    'The digest a row must have. Every column is spelled out in order: a column added later needs a new version of this text.';

-- Nobody chooses when an entry was made or what its digest is.
create function app.stamp_audit_log() returns trigger language plpgsql set search_path = '' as $$
begin
    new.occurred_at := clock_timestamp();
    new.xact := pg_current_xact_id();
    new.digest := app.audit_digest(new);
    return new;
end
$$;
create trigger audit_log_stamp before insert on public.audit_log for each row execute function app.stamp_audit_log();

create function app.refuse_change() returns trigger language plpgsql set search_path = '' as $$
begin
    raise exception '% is append only', tg_table_name using errcode = 'insufficient_privilege';
end
$$;
create trigger audit_log_refuse_change before update or delete or truncate on public.audit_log
    for each statement execute function app.refuse_change();
-- Also when the session pretends to be a replica.
alter table public.audit_log enable always trigger audit_log_refuse_change;
alter table public.audit_log enable always trigger audit_log_stamp;
grant execute on function app.stamp_audit_log(), app.refuse_change(), app.audit_digest(public.audit_log) to public;

create table public.error_logs (
    id            uuid        primary key default app.uuidv7(),
    org_id        uuid        references public.organizations (id) on delete cascade,
    service       text        not null,
    error_message text        not null,
    stack_trace   text,
    created_at    timestamptz not null default now(),
    constraint error_logs_error_message_check check (length(error_message) <= 10000)
);
comment on table public.error_logs is 'Failures worth a person''s attention. Messages carry codes and ids, nothing personal.';
create index error_logs_org_id_created_at_idx on public.error_logs (org_id, created_at desc);

alter table public.subject_keys enable row level security;
alter table public.subject_keys force row level security;
alter table public.audit_log enable row level security;
alter table public.audit_log force row level security;
alter table public.error_logs enable row level security;
alter table public.error_logs force row level security;

create policy audit_log_select on public.audit_log for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('audit:read')));
create policy audit_log_service_select on public.audit_log for select to spine_service
    using (org_id = (select app.service_org()));
-- The definer appends for people, agents and the system; it cannot read what it wrote.
create policy audit_log_definer_insert on public.audit_log for insert to spine_definer with check (true);
grant select on public.audit_log to authenticated, spine_service;
grant insert on public.audit_log to spine_definer;

create policy subject_keys_definer_select on public.subject_keys for select to spine_definer using (true);
create policy subject_keys_definer_insert on public.subject_keys for insert to spine_definer with check (true);
grant select, insert on public.subject_keys to spine_definer;

create policy error_logs_select on public.error_logs for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('errors:read')));
create policy error_logs_service_select on public.error_logs for select to spine_service using (org_id = (select app.service_org()));
create policy error_logs_service_insert on public.error_logs for insert to spine_service with check (org_id = (select app.service_org()));
grant select on public.error_logs to authenticated;
grant select, insert on public.error_logs to spine_service;

reset role;
set local role spine_definer;

-- Who acts is taken from the transaction, never from an argument.
create function app.append_audit(
    action text, resource_type text, record_id text, input jsonb, decision jsonb, output jsonb, metadata jsonb,
    ip text, user_agent text, request_id text, subject_ids uuid[]) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_role text := current_setting('role');
    v_id   uuid := app.uuidv7();
    v_org  uuid := app.current_org_id();
begin
    if v_org is null then
        raise exception 'an audit entry needs an organisation' using errcode = 'insufficient_privilege';
    end if;
    insert into public.audit_log (id, org_id, user_id, agent_id, actor, action, resource_type, record_id, input, decision, output,
                                  metadata, ip, user_agent, request_id, subject_ids)
    values (v_id, v_org,
            case when v_role = 'spine_caller' then app.uid() end,
            case when v_role = 'spine_agent' then app.agent_id() end,
            case v_role when 'spine_caller' then 'user' when 'spine_agent' then 'agent' else 'system' end,
            action, resource_type, record_id, input, decision, output, coalesce(metadata, '{}'), ip, user_agent, request_id,
            coalesce(subject_ids, '{}'));
    return v_id;
end
$$;

-- The subject's wrapped key, made from `fresh` if there is none. Null if it was destroyed: then nothing more is recorded of them.
create function app.subject_key(subject uuid, fresh text) returns text
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org uuid := app.current_org_id();
    v_key text;
begin
    if v_org is null then
        raise exception 'a subject key needs an organisation' using errcode = 'insufficient_privilege';
    end if;
    insert into public.subject_keys (org_id, subject_id, wrapped_key) values (v_org, subject, fresh) on conflict do nothing;
    select k.wrapped_key into v_key from public.subject_keys k where k.org_id = v_org and k.subject_id = subject;
    return v_key;
end
$$;
grant execute on function
    app.append_audit(text, text, text, jsonb, jsonb, jsonb, jsonb, text, text, text, uuid[]), app.subject_key(uuid, text)
    to spine_caller, spine_agent, spine_service;

reset role;
