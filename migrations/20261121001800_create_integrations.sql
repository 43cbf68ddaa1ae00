-- Create organisations' integrations, OAuth states, Fortnox customers, clients' accounting and accounting writes.
--
-- Locks:   data_ownership exclusively, for one insert; clients for the moment that a foreign key takes.
-- Rollout: expand.
-- Undo:    drop the five tables.

set local role spine_owner;

create table public.org_integrations (
    id                 uuid        primary key default app.uuidv7(),
    org_id             uuid        not null references public.organizations (id) on delete cascade,
    provider           text        not null,
    status             text        not null default 'connected',
    external_tenant_id text,
    company            jsonb       not null default '{}',
    scopes             text[]      not null default '{}',
    access_token       text,
    refresh_token      text,
    token_version      integer     not null default 0,
    expires_at         timestamptz,
    refreshing_since   timestamptz,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    constraint org_integrations_org_id_provider_key unique (org_id, provider),
    constraint org_integrations_provider_check check (provider in ('fortnox')),
    constraint org_integrations_status_check check (status in ('connected', 'expired', 'revoked', 'disconnected'))
);
comment on table public.org_integrations is 'An outside system that the organisation has connected.';
comment on column public.org_integrations.access_token is 'Sealed before it reaches SQL, as is refresh_token; never granted to a person.';

create table public.oauth_states (
    state_hash    bytea       primary key,
    org_id        uuid        not null references public.organizations (id) on delete cascade,
    user_id       uuid        not null references public.profiles (id) on delete cascade,
    provider      text        not null,
    code_verifier text,
    redirect_to   text,
    expires_at    timestamptz not null default now() + interval '10 minutes',
    used_at       timestamptz,
    created_at    timestamptz not null default now(),
    constraint oauth_states_state_hash_check check (length(state_hash) = 32),
    constraint oauth_states_provider_check check (provider in ('fortnox', 'instagram', 'tiktok'))
);
comment on table public.oauth_states is 'Connections that were begun: who began each, for which organisation. Used once, within ten minutes.';
create index oauth_states_org_id_created_at_idx on public.oauth_states (org_id, created_at desc);
create index oauth_states_user_id_idx on public.oauth_states (user_id);

create table public.fortnox_customers (
    org_id          uuid        not null references public.organizations (id) on delete cascade,
    customer_number text        not null,
    data            jsonb       not null,
    last_modified   timestamptz,
    client_id       uuid,
    synced_at       timestamptz not null default now(),
    primary key (org_id, customer_number),
    constraint fortnox_customers_customer_number_check check (length(customer_number) between 1 and 100),
    constraint fortnox_customers_data_check check (pg_column_size(data) <= 262144),
    constraint fortnox_customers_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete set null (client_id)
);
comment on table public.fortnox_customers is 'A customer in the organisation''s Fortnox, as last read.';
create index fortnox_customers_org_id_client_id_idx on public.fortnox_customers (org_id, client_id);

create table public.client_accounting (
    org_id                    uuid        not null,
    client_id                 uuid        not null,
    provider                  text        not null default 'fortnox',
    customer_number           text,
    can_write                 boolean     not null default false,
    fortnox_write_approved_at timestamptz,
    approved_by               uuid        references public.profiles (id) on delete set null,
    created_at                timestamptz not null default now(),
    updated_at                timestamptz not null default now(),
    primary key (client_id, provider),
    constraint client_accounting_customer_number_check check (length(customer_number) <= 100),
    constraint client_accounting_provider_check check (provider in ('fortnox')),
    -- Writing takes somebody's leave, and that has a time.
    constraint client_accounting_can_write_check check (not can_write or fortnox_write_approved_at is not null),
    constraint client_accounting_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.client_accounting is 'Where a client''s books are kept, and whether Spine may write to them.';
create index client_accounting_org_id_client_id_idx on public.client_accounting (org_id, client_id);
create index client_accounting_approved_by_idx on public.client_accounting (approved_by);

create table public.accounting_writes (
    id                  uuid        primary key default app.uuidv7(),
    org_id              uuid        not null,
    client_id           uuid        not null,
    kind                text        not null,
    payload             jsonb       not null,
    payload_hash        bytea       not null,
    status              text        not null default 'proposed',
    proposed_by         uuid        references public.profiles (id) on delete set null,
    approved_by         uuid        references public.profiles (id) on delete set null,
    approved_at         timestamptz,
    approval_expires_at timestamptz,
    executed_at         timestamptz,
    external_ref        text,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    constraint accounting_writes_kind_check check (kind in ('invoice', 'voucher', 'customer')),
    constraint accounting_writes_status_check
        check (status in ('proposed', 'approved', 'executing', 'executed', 'rejected', 'expired', 'failed', 'unknown')),
    constraint accounting_writes_payload_check check (pg_column_size(payload) <= 262144 and length(payload_hash) = 32),
    constraint accounting_writes_approved_check
        check (status not in ('approved', 'executing', 'executed') or (approved_at is not null and approval_expires_at is not null)),
    constraint accounting_writes_executed_check check ((executed_at is not null) = (status = 'executed')),
    constraint accounting_writes_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.accounting_writes is 'What is to be written to a client''s books: proposed, approved for a time by somebody, then executed once.';
create index accounting_writes_org_id_created_at_idx on public.accounting_writes (org_id, created_at desc);
create index accounting_writes_org_id_client_id_idx on public.accounting_writes (org_id, client_id, created_at desc);
create index accounting_writes_proposed_by_idx on public.accounting_writes (proposed_by);
create index accounting_writes_approved_by_idx on public.accounting_writes (approved_by);

do $$
declare
    made text;
begin
    foreach made in array array['org_integrations', 'oauth_states', 'fortnox_customers', 'client_accounting', 'accounting_writes'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('grant select on public.%I to spine_service', made);
    end loop;
    foreach made in array array['org_integrations', 'oauth_states', 'fortnox_customers', 'accounting_writes'] loop
        execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))',
                       made || '_service_insert', made);
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_update', made);
        execute format('grant insert on public.%I to spine_service', made);
    end loop;
end
$$;

create policy org_integrations_select on public.org_integrations for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('integrations:read')));
grant select (id, org_id, provider, status, external_tenant_id, company, scopes, expires_at, created_at, updated_at)
    on public.org_integrations to authenticated;
grant update (status, external_tenant_id, company, scopes, access_token, refresh_token, token_version, expires_at, refreshing_since)
    on public.org_integrations to spine_service;
grant update (used_at) on public.oauth_states to spine_service;

-- A client's books are seen by whoever runs the organisation, and by the consultants who work on the client. Never by its users.
create policy fortnox_customers_select on public.fortnox_customers for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('accounting:read')) then true
                    else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
grant select on public.fortnox_customers to authenticated;
grant update (data, last_modified, client_id, synced_at) on public.fortnox_customers to spine_service;

create policy client_accounting_select on public.client_accounting for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('accounting:read')) then true
                    else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
create policy client_accounting_insert on public.client_accounting for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('accounting:update')));
create policy client_accounting_update on public.client_accounting for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('accounting:update')));
create policy client_accounting_delete on public.client_accounting for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('accounting:update')));
grant select, delete on public.client_accounting to authenticated;
grant insert (org_id, client_id, provider, customer_number) on public.client_accounting to authenticated;
grant update (customer_number, can_write) on public.client_accounting to authenticated;

create policy accounting_writes_select on public.accounting_writes for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('accounting:read')) then true
                    else client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
grant select on public.accounting_writes to authenticated;
grant update (status, approved_by, approved_at, approval_expires_at, executed_at, external_ref) on public.accounting_writes to spine_service;

reset role;
set local role spine_definer;
-- Whoever lets Spine write is who is said to have, and when.
create function app.stamp_write_approval() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    -- Leave to write to one customer's books is none for another's.
    if tg_op = 'UPDATE' and old.can_write and new.customer_number is distinct from old.customer_number then
        new.can_write := false;
    end if;
    if new.can_write and (tg_op = 'INSERT' or not old.can_write) then
        new.approved_by := app.uid();
        new.fortnox_write_approved_at := now();
    elsif not new.can_write then
        new.approved_by := null;
        new.fortnox_write_approved_at := null;
    end if;
    return new;
end
$$;
grant execute on function app.stamp_write_approval() to spine_owner;
reset role;
set local role spine_owner;

create trigger client_accounting_stamp_approval before insert or update on public.client_accounting
    for each row execute function app.stamp_write_approval();
call app.audit_table('client_accounting', 'client_id,provider', 'can_write,fortnox_write_approved_at,approved_by');
call app.audit_table('accounting_writes', 'id', 'client_id,kind,status,proposed_by,approved_by,approved_at,approval_expires_at,executed_at');
do $$
declare
    touched text;
begin
    foreach touched in array array['org_integrations', 'client_accounting', 'accounting_writes'] loop
        execute format('create trigger %I before update on public.%I for each row execute function app.touch_updated_at()', touched || '_touch', touched);
    end loop;
end
$$;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('org_integrations', null, 'system'), ('oauth_states', null, 'system'), ('fortnox_customers', null, 'system'),
    ('client_accounting', null, 'human'), ('client_accounting', 'approved_by', 'system'),
    ('client_accounting', 'fortnox_write_approved_at', 'system'), ('accounting_writes', null, 'system');
alter table public.data_ownership force row level security;

reset role;
