-- Create jobs, outbox, idempotency keys and settings.
--
-- Locks:   none on existing tables.
-- Rollout: expand.
-- Undo:    drop the four tables and their functions.

set local role spine_owner;

create table public.jobs (
    id                  uuid        primary key default app.uuidv7(),
    org_id              uuid        not null references public.organizations (id) on delete cascade,
    job_type            text        not null,
    status              text        not null default 'queued',
    payload             jsonb       not null default '{}',
    result              jsonb,
    actual_tokens       bigint,
    attempts            integer     not null default 0,
    max_attempts        integer     not null default 5,
    run_after           timestamptz not null default now(),
    lease_until         timestamptz,
    lease_token         uuid,
    priority            smallint    not null default 0,
    unique_key          text,
    last_error          jsonb,
    wait_reason         jsonb,
    cancel_requested_at timestamptz,
    created_by          uuid,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    finished_at         timestamptz,

    constraint jobs_org_id_id_key unique (org_id, id),
    constraint jobs_job_type_check check (job_type ~ '^[a-z_]{1,60}$'),
    constraint jobs_status_check check (status in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint jobs_lease_check check ((status = 'running') = (lease_token is not null and lease_until is not null)),
    constraint jobs_payload_check check (pg_column_size(payload) <= 65536)
);
comment on table public.jobs is 'Work to be done, as people see it. A queue message only says "look"; this row is the truth.';
comment on column public.jobs.lease_token is 'Who holds the job. A completion that carries another token is refused.';
comment on column public.jobs.created_by is 'The person or agent that asked for it.';
create unique index jobs_org_id_job_type_unique_key_key on public.jobs (org_id, job_type, unique_key) where unique_key is not null;
create index jobs_org_id_created_at_idx on public.jobs (org_id, created_at desc);
create index jobs_due_idx on public.jobs (run_after) where status = 'queued';
create index jobs_expired_idx on public.jobs (lease_until) where status = 'running';

create table public.outbox (
    id              uuid        primary key default app.uuidv7(),
    org_id          uuid        not null references public.organizations (id) on delete cascade,
    kind            text        not null,
    destination     text        not null,
    payload         jsonb       not null,
    attempts        integer     not null default 0,
    next_attempt_at timestamptz not null default now(),
    last_error      text,
    delivered_at    timestamptz,
    created_at      timestamptz not null default now(),
    constraint outbox_kind_check check (kind in ('document', 'queue', 'realtime'))
);
comment on table public.outbox is 'What must reach MongoDB, a queue or a realtime channel after commit. Delivery is idempotent by id.';
create index outbox_org_id_due_idx on public.outbox (org_id, next_attempt_at) where delivered_at is null;
create index outbox_due_idx on public.outbox (next_attempt_at) where delivered_at is null;

create table public.idempotency_keys (
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    actor_id     uuid        not null,
    key          text        not null,
    operation    text        not null,
    request_hash bytea       not null,
    resource_id  uuid        not null,
    created_at   timestamptz not null default now(),
    primary key (org_id, actor_id, key),
    constraint idempotency_keys_key_check check (length(key) between 1 and 255)
);
comment on table public.idempotency_keys is 'What a request with this key made, written with the effect. A replay answers with the same resource.';

create table public.system_settings (
    key         text        primary key,
    value       jsonb       not null,
    description text        not null,
    updated_at  timestamptz not null default now(),
    constraint system_settings_key_check check (key ~ '^[a-z_]+(\.[a-z_]+)*$')
);
comment on table public.system_settings is 'Kill switches and feature flags, set by an operator.';
insert into public.system_settings (key, value, description) values
    ('renders.enabled', 'true', 'false pauses admission and processing of render requests');

alter table public.jobs enable row level security;
alter table public.jobs force row level security;
alter table public.outbox enable row level security;
alter table public.outbox force row level security;
alter table public.idempotency_keys enable row level security;
alter table public.idempotency_keys force row level security;
alter table public.system_settings enable row level security;
alter table public.system_settings force row level security;

create policy jobs_select on public.jobs for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('jobs:read_all')) then true else created_by = (select app.uid()) end);
create policy jobs_agent_select on public.jobs for select to spine_agent
    using (org_id = (select app.agent_org_id()) and created_by = (select app.agent_id()));
create policy jobs_service_select on public.jobs for select to spine_service using (org_id = (select app.service_org()));
create policy jobs_service_update on public.jobs for update to spine_service
    using (org_id = (select app.service_org())) with check (org_id = (select app.service_org()));
create policy jobs_definer_select on public.jobs for select to spine_definer using (true);
create policy jobs_definer_insert on public.jobs for insert to spine_definer with check (true);
create policy jobs_definer_update on public.jobs for update to spine_definer using (true) with check (true);
grant select on public.jobs to authenticated, spine_agent, spine_service, spine_definer;
grant update on public.jobs to spine_service, spine_definer;
grant insert on public.jobs to spine_definer;

create policy outbox_service_select on public.outbox for select to spine_service using (org_id = (select app.service_org()));
create policy outbox_service_insert on public.outbox for insert to spine_service with check (org_id = (select app.service_org()));
create policy outbox_service_update on public.outbox for update to spine_service
    using (org_id = (select app.service_org())) with check (org_id = (select app.service_org()));
create policy outbox_definer_select on public.outbox for select to spine_definer using (true);
grant select, insert, update on public.outbox to spine_service;
grant select on public.outbox to spine_definer;

create policy idempotency_keys_caller_select on public.idempotency_keys for select to spine_caller
    using (org_id = (select app.active_org_id()) and actor_id = (select app.uid()));
create policy idempotency_keys_caller_insert on public.idempotency_keys for insert to spine_caller
    with check (org_id = (select app.active_org_id()) and actor_id = (select app.uid()));
create policy idempotency_keys_agent_select on public.idempotency_keys for select to spine_agent
    using (org_id = (select app.agent_org_id()) and actor_id = (select app.agent_id()));
create policy idempotency_keys_agent_insert on public.idempotency_keys for insert to spine_agent
    with check (org_id = (select app.agent_org_id()) and actor_id = (select app.agent_id()));
create policy idempotency_keys_definer_select on public.idempotency_keys for select to spine_definer using (true);
create policy idempotency_keys_definer_delete on public.idempotency_keys for delete to spine_definer using (true);
grant select, insert on public.idempotency_keys to spine_caller, spine_agent;
grant select, delete on public.idempotency_keys to spine_definer;

create policy system_settings_definer_select on public.system_settings for select to spine_definer using (true);
grant select on public.system_settings to spine_definer;

create trigger jobs_touch before update on public.jobs for each row execute function app.touch_updated_at();

reset role;
set local role spine_definer;

create function app.setting(wanted text) returns jsonb language sql stable security definer set search_path = '' as $$
    select value from public.system_settings where key = wanted
$$;
grant execute on function app.setting(text) to spine_caller, spine_agent, spine_service;

-- Which jobs are due or were left by a dead worker? Ids only: each is then worked on inside its organisation.
-- One organisation's backlog must not hide another's job, so each gets a share of the page.
create function app.due_jobs(most integer) returns table (org_id uuid, job_id uuid, job_type text)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.id, d.job_type
      from (select j.org_id, j.id, j.job_type,
                   row_number() over (partition by j.org_id order by j.priority desc, j.run_after) as place
              from public.jobs j
             where (j.status = 'queued' and j.run_after <= now())
                or (j.status = 'running' and j.lease_until <= now())) d
     order by d.place, d.id
     limit least(most, 1000)
$$;

create function app.due_outbox_orgs(most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select distinct o.org_id from public.outbox o where o.delivered_at is null and o.next_attempt_at <= now() limit least(most, 1000)
$$;

-- Keys are honoured for a day.
create function app.forget_idempotency_keys() returns integer
    language sql volatile security definer set search_path = '' as $$
    with gone as (delete from public.idempotency_keys where created_at < now() - interval '1 day' returning 1)
    select count(*)::integer from gone
$$;
grant execute on function app.due_jobs(integer), app.due_outbox_orgs(integer), app.forget_idempotency_keys() to spine_service;

reset role;
