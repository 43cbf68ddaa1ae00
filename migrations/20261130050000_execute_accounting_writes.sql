-- Execute accounting writes: an approval queues its write, the intent stands before the voucher is sent, and our series are compared with
-- Fortnox' every night.
--
-- Locks:   accounting_writes exclusively while its tokens are made; approvals and system_settings for the moment that a trigger and an insert
--          take; fortnox_sync_state, which has a row for each organisation, while its indexes are made.
-- Rollout: expand.
-- Undo:    drop the trigger, functions and tables of this file, make begin_execution and wait_is_over again as they were, and drop the column.

set local role spine_owner;

alter table public.system_settings no force row level security;
insert into public.system_settings (key, value, description) values
    ('accounting.enabled', 'true', 'false holds what is written to books: approved writes wait until it is true');
alter table public.system_settings force row level security;

-- What finds a voucher at Fortnox, which has no key for it: part of its description.
alter table public.accounting_writes
    add column token text not null default 'sp-' || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12),
    add constraint accounting_writes_org_id_token_key unique (org_id, token),
    add constraint accounting_writes_token_check check (token ~ '^sp-[0-9a-f]{12}$');
alter table public.accounting_writes
    add column source_key text,
    add column submission_id uuid,
    add constraint accounting_writes_source_key_check check (length(source_key) between 1 and 200),
    add constraint accounting_writes_org_id_submission_id_fkey
        foreign key (org_id, submission_id) references public.submissions (org_id, id) on delete set null (submission_id);
comment on column public.accounting_writes.source_key is
    'What it was made from, as in `submission <id> approval SP` or `invoice <number> payment SP`. Null: a person or agent wrote it.';
create index accounting_writes_org_id_source_key_idx on public.accounting_writes (org_id, source_key);
create index accounting_writes_org_id_submission_id_idx on public.accounting_writes (org_id, submission_id);
comment on column public.accounting_writes.token is 'Part of the voucher''s description, by which it is found at Fortnox.';

create table public.accounting_executions (
    approval_id        uuid        primary key,
    org_id             uuid        not null,
    client_id          uuid        not null,
    external_tenant_id text        not null,
    series             text        not null,
    year_id            bigint      not null,
    voucher_date       date        not null,
    token              text        not null,
    next_number        bigint,
    sent_at            timestamptz,
    attempts           integer     not null default 0,
    voucher_number     bigint,
    refusal_code       text,
    refusal_message    text,
    ended_at           timestamptz,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),

    constraint accounting_executions_series_check check (series ~ '^[A-Za-z0-9]{1,10}$'),
    constraint accounting_executions_text_check check (length(refusal_code) <= 100 and length(refusal_message) <= 500),
    constraint accounting_executions_ended_check check (ended_at is not null or voucher_number is null and refusal_code is null),
    constraint accounting_executions_org_id_approval_id_fkey
        foreign key (org_id, approval_id) references public.approvals (org_id, id) on delete cascade,
    constraint accounting_executions_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.accounting_executions is
    'The intent to write a voucher, which stands before it is sent, and what Fortnox made of it.';
comment on column public.accounting_executions.sent_at is 'When it was sent last. Null: it is certain that Fortnox has not got it.';
comment on column public.accounting_executions.next_number is 'The number that the series was to give next, before it was sent.';
comment on column public.accounting_executions.refusal_message is 'Fortnox'' own words, in Swedish.';
create index accounting_executions_org_id_approval_id_idx on public.accounting_executions (org_id, approval_id);
create index accounting_executions_org_id_client_id_idx on public.accounting_executions (org_id, client_id);
-- One write in flight in a company's series, and what a night's comparison reads.
create unique index accounting_executions_flight_key on public.accounting_executions (org_id, external_tenant_id, series) where ended_at is null;
create index accounting_executions_series_idx on public.accounting_executions (org_id, external_tenant_id, series, year_id);

create table public.accounting_reconciliations (
    org_id             uuid        not null references public.organizations (id) on delete cascade,
    external_tenant_id text        not null,
    series             text        not null,
    year_id            bigint      not null,
    checked_at         timestamptz not null default now(),
    ours               integer     not null,
    theirs             integer     not null,
    problems           jsonb       not null default '[]',
    primary key (org_id, external_tenant_id, series, year_id),
    constraint accounting_reconciliations_problems_check check (jsonb_typeof(problems) = 'array' and pg_column_size(problems) <= 262144)
);
comment on table public.accounting_reconciliations is
    'What last night''s comparison of a series with our executions found: [{"code","token","number"}].';

create index accounting_reconciliations_problems_idx on public.accounting_reconciliations (org_id) where problems <> '[]';

-- When each organisation is looked at next.
alter table public.fortnox_sync_state
    add column reconcile_after timestamptz not null default '-infinity',
    add column payments_after timestamptz not null default '-infinity';
create index fortnox_sync_state_reconcile_after_idx on public.fortnox_sync_state (reconcile_after);
create index fortnox_sync_state_payments_after_idx on public.fortnox_sync_state (payments_after);
grant update (reconcile_after, payments_after) on public.fortnox_sync_state to spine_definer;

do $$
declare
    made text;
begin
    foreach made in array array['accounting_executions', 'accounting_reconciliations'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('create policy %I on public.%I for select to spine_definer using (true)', made || '_definer_select', made);
        execute format('grant select on public.%I to spine_service, spine_definer, authenticated', made);
    end loop;
end
$$;
create policy accounting_executions_select on public.accounting_executions for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('accounting:read')) then true
                    else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
create policy accounting_reconciliations_select on public.accounting_reconciliations for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('accounting:read')));
-- Functions alone begin and end executions.
create policy accounting_executions_definer_insert on public.accounting_executions for insert to spine_definer with check (true);
create policy accounting_executions_definer_update on public.accounting_executions for update to spine_definer using (true);
create policy accounting_executions_definer_delete on public.accounting_executions for delete to spine_definer using (true);
grant insert, update, delete on public.accounting_executions to spine_definer;
create policy accounting_reconciliations_service_insert on public.accounting_reconciliations for insert to spine_service
    with check (org_id = (select app.service_org()));
create policy accounting_reconciliations_service_update on public.accounting_reconciliations for update to spine_service
    using (org_id = (select app.service_org()));
grant insert on public.accounting_reconciliations to spine_service;
grant update (checked_at, ours, theirs, problems) on public.accounting_reconciliations to spine_service;

-- Under the policies of its tables.
create view public.approval_details with (security_invoker = true) as
select a.id, a.org_id, a.kind, a.client_id, a.status, encode(a.payload_digest, 'hex') as digest, a.proposed_by, a.proposed_by_agent, a.decided_by,
       a.decided_at, a.reason, a.first_step_at, a.expires_at, a.overdue_at, a.created_at,
       w.payload, w.source_key, w.submission_id, w.external_tenant_id as company, w.token,
       e.sent_at, e.series, e.year_id, e.voucher_number, e.refusal_code, e.refusal_message
  from public.approvals a
  left join public.accounting_writes w on a.subject_table = 'accounting_writes' and w.org_id = a.org_id and w.id = a.subject_id
  left join public.accounting_executions e on e.org_id = a.org_id and e.approval_id = a.id;
comment on view public.approval_details is 'An approval with what it is about, the digest that approving it takes, and what came of it.';
grant select on public.approval_details to authenticated;

create trigger accounting_executions_touch before update on public.accounting_executions
    for each row execute function app.touch_updated_at();
call app.audit_table('accounting_executions', 'approval_id',
    'client_id,external_tenant_id,series,year_id,token,sent_at,attempts,voucher_number,refusal_code,ended_at');

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('accounting_executions', null, 'system'), ('accounting_reconciliations', null, 'system');
alter table public.data_ownership force row level security;

reset role;
set local role spine_definer;

-- An approval queues what was approved -----------------------------------------------------------------------------------------

create function app.queue_accounting_write() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    insert into public.jobs (org_id, job_type, payload, max_attempts, unique_key, created_by)
    values (new.org_id, 'accounting_write', jsonb_build_object('do', 'write', 'approval_id', new.id), 20, new.id::text, new.decided_by)
    on conflict (org_id, job_type, unique_key) where unique_key is not null do nothing;
    return null;
end
$$;
grant execute on function app.queue_accounting_write() to spine_owner;

-- The gate -----------------------------------------------------------------------------------------------------------------------

-- What begin_execution was, and once more for an execution that has begun: every condition is in the statement that takes the approval, as it
-- is at that moment.
create function app.take_approval(p_id uuid, p_again boolean, out payload jsonb, out client_id uuid, out external_tenant_id text, out refused text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_org uuid := app.service_org();
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system executes, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    update public.approvals a
       set status = 'executing', began_at = coalesce(a.began_at, clock_timestamp())
      from public.accounting_writes w
      join public.client_accounting c on c.org_id = w.org_id and c.client_id = w.client_id and c.provider = 'fortnox'
      join public.org_integrations i on i.org_id = w.org_id and i.provider = 'fortnox'
     where a.id = p_id and a.org_id = v_org and a.kind = 'voucher'
       and a.status = any (case when p_again then array['executing', 'unknown'] else array['approved', 'overdue'] end)
       and a.expires_at > clock_timestamp()
       and a.subject_table = 'accounting_writes' and w.org_id = a.org_id and w.id = a.subject_id and w.client_id = a.client_id
       and app.payload_digest(w.payload) = a.payload_digest
       and c.can_write and c.fortnox_write_approved_at <= clock_timestamp()
       and app.person_may(a.org_id, a.decided_by, 'accounting:approve')
       and a.policy_version = coalesce((select s.policy_version from public.approval_settings s where s.org_id = a.org_id), 0)
       and i.status = 'connected' and i.external_tenant_id = w.external_tenant_id
    returning w.payload, w.client_id, w.external_tenant_id into payload, client_id, external_tenant_id;
    if found then
        return;
    end if;
    select case when a.status <> all (case when p_again then array['executing', 'unknown'] else array['approved', 'overdue'] end) then 'not_approved'
                when a.expires_at <= clock_timestamp() then 'expired'
                when w.id is null or w.client_id is distinct from a.client_id then 'client_changed'
                when app.payload_digest(w.payload) <> a.payload_digest then 'payload_changed'
                when c.client_id is null or not c.can_write or c.fortnox_write_approved_at is null then 'writing_not_allowed'
                when not coalesce(app.person_may(a.org_id, a.decided_by, 'accounting:approve'), false) then 'right_revoked'
                when a.policy_version <> coalesce((select s.policy_version from public.approval_settings s where s.org_id = a.org_id), 0) then 'policy_changed'
                else 'not_connected' end
      into refused
      from public.approvals a
      left join public.accounting_writes w on w.org_id = a.org_id and w.id = a.subject_id
      left join public.client_accounting c on c.org_id = a.org_id and c.client_id = a.client_id and c.provider = 'fortnox'
     where a.id = p_id and a.org_id = v_org and a.kind = 'voucher';
    refused := coalesce(refused, 'not_found');
end
$$;
comment on function app.take_approval(uuid, boolean) is
    'Takes an approval to execute it, or one whose execution has begun once more, if that still may be done. For the functions below.';

create or replace function app.begin_execution(p_id uuid, out payload jsonb, out client_id uuid, out external_tenant_id text, out refused text)
    language sql volatile security definer set search_path = '' as $$
    select t.payload, t.client_id, t.external_tenant_id, t.refused from app.take_approval(p_id, false) t
$$;

-- Executing a voucher ------------------------------------------------------------------------------------------------------------

-- What there is to do about an approved voucher: `begin` it; nothing yet, if another of its series is in flight (`busy`); `send` it again, of which it is certain that Fortnox has not got it; `search` for
-- it, since that is not certain; nothing, if it `ended` or is not approved.
create function app.accounting_write_state(p_id uuid, out step text, out status text, out series text, out voucher_date date, out year_id bigint,
                                           out token text, out next_number bigint, out sent_at timestamptz, out external_tenant_id text)
    language sql stable security definer set search_path = '' as $$
    select case when a.status in ('approved', 'overdue') and exists (
                    select from public.accounting_executions o
                     where o.org_id = a.org_id and o.external_tenant_id = w.external_tenant_id and o.series = w.payload ->> 'series'
                       and o.ended_at is null and o.approval_id <> a.id) then 'busy'
                when a.status in ('approved', 'overdue') then 'begin'
                when a.status not in ('executing', 'unknown') or e.approval_id is null then 'ended'
                when e.sent_at is null then 'send' else 'search' end,
           a.status, w.payload ->> 'series', (w.payload ->> 'date')::date, (w.payload ->> 'year_id')::bigint, w.token, e.next_number, e.sent_at,
           w.external_tenant_id
      from public.approvals a
      join public.accounting_writes w on w.org_id = a.org_id and w.id = a.subject_id
      left join public.accounting_executions e on e.approval_id = a.id and e.ended_at is null
     where a.id = p_id and a.org_id = app.service_org() and a.kind = 'voucher'
$$;

-- Writes down that a voucher is being sent, if it still may be; then it may be sent once. `p_next_number` is the number that its series is to
-- give next. `p_searched`: it was sent before, and Fortnox has not got it. `refused` is `series_busy` while another of the series is in flight,
-- or why it may not be sent.
create function app.begin_accounting_write(p_id uuid, p_next_number bigint, p_searched boolean, out payload jsonb, out token text, out refused text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    e public.accounting_executions;
    t record;
begin
    select * into e from public.accounting_executions x where x.approval_id = p_id and x.org_id = app.service_org() for update;
    if e.ended_at is not null or e.sent_at is not null and not p_searched then
        refused := 'not_approved';
        return;
    end if;
    if e.approval_id is null then
        -- First its place in the series: what is in flight there may be waited for, so that the approval stays as it is.
        insert into public.accounting_executions (approval_id, org_id, client_id, external_tenant_id, series, year_id, voucher_date, token, next_number, sent_at, attempts)
        select a.id, a.org_id, w.client_id, w.external_tenant_id, w.payload ->> 'series', (w.payload ->> 'year_id')::bigint,
               (w.payload ->> 'date')::date, w.token, p_next_number, clock_timestamp(), 1
          from public.approvals a join public.accounting_writes w on w.org_id = a.org_id and w.id = a.subject_id
         where a.id = p_id and a.org_id = app.service_org() and a.status in ('approved', 'overdue')
        on conflict (org_id, external_tenant_id, series) where ended_at is null do nothing;
        if not found and exists (select from public.approvals a where a.id = p_id and a.org_id = app.service_org() and a.status in ('approved', 'overdue')) then
            refused := 'series_busy';
            return;
        end if;
    end if;
    select * into t from app.take_approval(p_id, e.approval_id is not null);
    refused := t.refused;
    if refused is not null then
        if e.approval_id is null then
            delete from public.accounting_executions x where x.approval_id = p_id and x.org_id = app.service_org();
        end if;
        return;
    end if;
    if e.approval_id is not null then
        update public.accounting_executions x set sent_at = clock_timestamp(), next_number = p_next_number, attempts = x.attempts + 1
         where x.approval_id = p_id;
    end if;
    payload := t.payload;
    token := (select x.token from public.accounting_executions x where x.approval_id = p_id);
end
$$;
comment on function app.begin_accounting_write(uuid, bigint, boolean) is
    'Writes down that an approved voucher is being sent, if it still may be: then it may be sent once.';

-- Says what came of a voucher that was sent: `executed` with its number; `failed`, with why; `unknown`, if Fortnox did not answer; `unsent`, if
-- it is certain that Fortnox has not got it. False if it has ended.
create function app.end_accounting_write(p_id uuid, p_outcome text, p_number bigint, p_code text, p_message text) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
declare
    e public.accounting_executions;
begin
    select * into e from public.accounting_executions x
     where x.approval_id = p_id and x.org_id = app.service_org() and x.ended_at is null for update;
    if not found then
        return false;
    end if;
    if p_outcome = 'unsent' then
        -- One that was sent before may appear yet: it is searched for again.
        update public.accounting_executions x set sent_at = null where x.approval_id = p_id and x.attempts = 1;
        return true;
    end if;
    if not app.end_execution(p_id, p_outcome, case p_outcome when 'executed' then format('%s %s, year %s', e.series, p_number, e.year_id) when 'failed' then p_code end) then
        return false;
    end if;
    if p_outcome in ('executed', 'failed') then
        update public.accounting_executions x
           set ended_at = clock_timestamp(), voucher_number = case when p_outcome = 'executed' then p_number end,
               refusal_code = case when p_outcome = 'failed' then left(p_code, 100) end,
               refusal_message = case when p_outcome = 'failed' then left(p_message, 500) end
         where x.approval_id = p_id;
    end if;
    return true;
end
$$;
comment on function app.end_accounting_write(uuid, text, bigint, text, text) is 'Says what came of a voucher that was sent. False if it has ended.';

-- Nights -------------------------------------------------------------------------------------------------------------------------

-- Queues one comparison for each connected organisation that has written something and was not compared since the last night began: three
-- o'clock in Stockholm, where the books are. How many.
create function app.queue_reconciliations(p_most integer) returns integer
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_night  timestamp := date_trunc('day', clock_timestamp() at time zone 'Europe/Stockholm' - interval '3 hours') + interval '3 hours';
    v_queued integer;
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system compares' using errcode = 'insufficient_privilege';
    end if;
    with due as materialized (
        select s.org_id from public.fortnox_sync_state s where s.reconcile_after <= now()
         order by s.reconcile_after limit least(p_most, 1000) for update skip locked
    ),
    looked_at as (
        update public.fortnox_sync_state s set reconcile_after = (v_night + interval '1 day') at time zone 'Europe/Stockholm'
         where s.org_id = any (array(select d.org_id from due d)) returning s.org_id
    )
    insert into public.jobs (org_id, job_type, payload, unique_key)
    select i.org_id, 'accounting_reconcile', jsonb_build_object('do', 'reconcile'), v_night::date::text
      from public.org_integrations i
     where i.provider = 'fortnox' and i.status = 'connected' and i.org_id = any (array(select l.org_id from looked_at l))
       and (select true from public.accounting_executions e where e.org_id = i.org_id and e.external_tenant_id = i.external_tenant_id limit 1)
    on conflict (org_id, job_type, unique_key) where unique_key is not null do nothing;
    get diagnostics v_queued = row_count;
    return v_queued;
end
$$;
comment on function app.queue_reconciliations(integer) is 'Queues the comparison of series with Fortnox, once a night for each organisation. How many.';

create function app.accounting_differences() returns bigint
    language sql stable security definer set search_path = '' as $$
    select coalesce(sum(jsonb_array_length(r.problems)), 0)::bigint from public.accounting_reconciliations r where r.problems <> '[]'
$$;
comment on function app.accounting_differences() is 'How many differences with Fortnox the last comparisons found, over all organisations.';

create or replace function app.wait_is_over(p_org uuid, p_type text, p_wait jsonb) returns boolean
    language sql stable set search_path = '' as $$
    select case p_wait ->> 'reason'
        when 'limit' then
            (p_wait #>> '{limit,version}') is distinct from
            app.limit_in_force(p_org, p_wait #>> '{limit,agent}', p_wait ->> 'scope', p_wait #>> '{limit,scope_id}', p_wait #>> '{limit,period}')
            -- Made to wait before versions were named.
            or p_wait #> '{limit,version}' is null
        when 'paused' then
            app.setting(case when p_type = 'render' then 'renders.enabled' when p_type = 'insight' then 'insights.enabled'
                             when p_type = 'lead_assign' then 'leads.enabled' when p_type like 'accounting\_%' then 'accounting.enabled'
                             when p_type like 'fortnox\_%' then 'fortnox.enabled' end) = 'true'
        else false
    end
$$;

grant execute on function app.accounting_write_state(uuid), app.begin_accounting_write(uuid, bigint, boolean),
    app.end_accounting_write(uuid, text, bigint, text, text), app.queue_reconciliations(integer), app.accounting_differences() to spine_service;

reset role;
set local role spine_owner;

create trigger approvals_queue after update on public.approvals
    for each row when (new.kind = 'voucher' and new.status = 'approved' and old.status = 'proposed')
    execute function app.queue_accounting_write();

reset role;
