-- Keep what is read of an organisation's Fortnox: years, series, accounts, cost centres, the locked period, and how far the reading is.
--
-- Locks:   fortnox_customers, org_integrations, jobs and system_settings exclusively, for the moment that a column, an index or an insert takes;
--          data_ownership exclusively, for one insert.
-- Rollout: expand.
-- Undo:    drop the functions, tables and columns of this file; create or replace app.wait_is_over as 20261129040600 has it; delete the setting.

set local role spine_owner;

alter table public.jobs add column progress jsonb;
comment on column public.jobs.progress is 'How far the work is, as its worker last wrote.';
grant update (progress) on public.jobs to spine_service, spine_definer;

alter table public.system_settings no force row level security;
insert into public.system_settings (key, value, description) values
    ('fortnox.enabled', 'true', 'false pauses the reading of organisations'' Fortnox');
alter table public.system_settings force row level security;

alter table public.fortnox_customers
    add column pass_id uuid,
    add column active boolean,
    add column kind text,
    add column deleted_at timestamptz,
    add constraint fortnox_customers_kind_check check (kind in ('PRIVATE', 'COMPANY'));
comment on column public.fortnox_customers.pass_id is 'The pass that saw it last.';
comment on column public.fortnox_customers.active is 'Null as long as that is not known: lists of customers do not say it.';
comment on column public.fortnox_customers.kind is 'PRIVATE or COMPANY; null as long as it was not read by itself.';
comment on column public.fortnox_customers.deleted_at is 'Since when Fortnox has it no more. It stays here, and comes back if it is seen again.';
create index fortnox_customers_listed_idx on public.fortnox_customers (org_id, customer_number collate "C");
grant update (pass_id, active, kind, deleted_at) on public.fortnox_customers to spine_service;

alter table public.org_integrations add column sync_after timestamptz not null default now();
comment on column public.org_integrations.sync_after is 'When the provider is to be read again.';
create index org_integrations_due_idx on public.org_integrations (sync_after) where provider = 'fortnox' and status = 'connected';
create index org_integrations_issued_idx on public.org_integrations (issued_at)
    where provider = 'fortnox' and status = 'connected' and grant_type = 'refresh_token';
create index org_integrations_reconnect_idx on public.org_integrations (org_id) where provider = 'fortnox' and status = 'reconnect';
grant update (sync_after) on public.org_integrations to spine_service, spine_definer;
create policy org_integrations_definer_update on public.org_integrations for update to spine_definer using (true);

create table public.fortnox_sync_state (
    org_id          uuid        primary key references public.organizations (id) on delete cascade,
    tenant          text        not null,
    pass            jsonb,
    full_wanted     boolean     not null default false,
    customers_since timestamptz,
    accounts_since  timestamptz,
    read_at         timestamptz,
    full_at         timestamptz,
    locked_until    date,
    result          jsonb       not null default '{}',
    updated_at      timestamptz not null default now()
);
comment on table public.fortnox_sync_state is 'How far the reading of an organisation''s Fortnox is, and what it last came to.';
comment on column public.fortnox_sync_state.pass is 'The pass that is not at its end: where the next worker goes on.';
comment on column public.fortnox_sync_state.customers_since is 'When the last complete reading of customers began: changes before it are known.';
comment on column public.fortnox_sync_state.locked_until is 'Up to this day nothing can be booked. Null where nothing is locked or it is not known.';

create table public.fortnox_years (
    org_id    uuid        not null references public.organizations (id) on delete cascade,
    year_id   bigint      not null,
    from_date date        not null,
    to_date   date        not null,
    method    text,
    synced_at timestamptz not null default now(),
    primary key (org_id, year_id),
    constraint fortnox_years_dates_check check (from_date <= to_date),
    constraint fortnox_years_method_check check (length(method) <= 100)
);
comment on table public.fortnox_years is 'A financial year of the organisation''s Fortnox. Its id is not the calendar year.';

create table public.fortnox_voucher_series (
    org_id      uuid        not null,
    year_id     bigint      not null,
    code        text        not null,
    description text        not null default '',
    manual      boolean     not null,
    synced_at   timestamptz not null default now(),
    primary key (org_id, year_id, code),
    constraint fortnox_voucher_series_text_check check (length(code) between 1 and 10 and length(description) <= 1024),
    constraint fortnox_voucher_series_year_fkey foreign key (org_id, year_id) references public.fortnox_years (org_id, year_id) on delete cascade
);
comment on table public.fortnox_voucher_series is 'A series of vouchers in one financial year.';
comment on column public.fortnox_voucher_series.manual is 'Whether the API may add vouchers to it.';

create table public.fortnox_accounts (
    org_id               uuid        not null,
    year_id              bigint      not null,
    number               integer     not null,
    description          text        not null default '',
    active               boolean     not null,
    vat_code             text,
    cost_center_settings text,
    project_settings     text,
    pass_id              uuid        not null,
    synced_at            timestamptz not null default now(),
    primary key (org_id, year_id, number),
    constraint fortnox_accounts_number_check check (number between 1000 and 9999),
    constraint fortnox_accounts_text_check check (length(description) <= 1024 and length(vat_code) <= 100),
    constraint fortnox_accounts_settings_check
        check (cost_center_settings in ('ALLOWED', 'MANDATORY', 'NOTALLOWED') and project_settings in ('ALLOWED', 'MANDATORY', 'NOTALLOWED')),
    constraint fortnox_accounts_year_fkey foreign key (org_id, year_id) references public.fortnox_years (org_id, year_id) on delete cascade
);
comment on table public.fortnox_accounts is 'An account of one financial year that can be booked in. Each year has accounts of its own.';
comment on column public.fortnox_accounts.cost_center_settings is 'Whether a row on it may, must or must not name a cost centre.';

create table public.fortnox_cost_centers (
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    code        text        not null,
    description text        not null default '',
    active      boolean     not null,
    synced_at   timestamptz not null default now(),
    primary key (org_id, code),
    constraint fortnox_cost_centers_text_check check (length(code) between 1 and 100 and length(description) <= 1024)
);
comment on table public.fortnox_cost_centers is 'A cost centre of the organisation''s Fortnox.';

do $$
declare
    made text;
begin
    foreach made in array array['fortnox_sync_state', 'fortnox_years', 'fortnox_voucher_series', 'fortnox_accounts', 'fortnox_cost_centers'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))',
                       made || '_service_insert', made);
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_update', made);
        execute format('create policy %I on public.%I for select to spine_definer using (true)', made || '_definer_select', made);
        -- They are no client's: the organisation's people who read its books see them, and the consultants who propose bookings.
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id())
                            and ((select app.may(''accounting:read'')) or (select app.may(''accounting:propose''))))', made || '_select', made);
        execute format('grant select, insert, update on public.%I to spine_service', made);
        execute format('grant select on public.%I to spine_definer, authenticated', made);
    end loop;
    foreach made in array array['fortnox_years', 'fortnox_voucher_series', 'fortnox_accounts', 'fortnox_cost_centers'] loop
        execute format('create policy %I on public.%I for delete to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_delete', made);
        execute format('grant delete on public.%I to spine_service', made);
    end loop;
end
$$;
create trigger fortnox_sync_state_touch before update on public.fortnox_sync_state for each row execute function app.touch_updated_at();
create policy fortnox_sync_state_definer_insert on public.fortnox_sync_state for insert to spine_definer with check (true);
create policy fortnox_sync_state_definer_update on public.fortnox_sync_state for update to spine_definer using (true);
grant insert (org_id, tenant, full_wanted), update (full_wanted) on public.fortnox_sync_state to spine_definer;
grant select (issued_at, grant_type, sync_after) on public.org_integrations to spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, owner)
select t.name, 'system' from unnest(array['fortnox_sync_state', 'fortnox_years', 'fortnox_voucher_series', 'fortnox_accounts',
                                          'fortnox_cost_centers']) t (name);
alter table public.data_ownership force row level security;

reset role;
set local role spine_definer;

-- The job that reads the organisation's Fortnox: queued, whether it was or had ended; one at a time. Null where Fortnox is not connected.
-- For a person who may manage integrations, and for the system.
create function app.admit_fortnox_sync(p_full boolean) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org    uuid := app.current_org_id();
    v_actor  uuid := case when current_setting('role') = 'spine_caller' then app.uid() end;
    v_tenant text;
    v_job    uuid;
begin
    if v_org is null or not (current_setting('role') = 'spine_service'
                             or current_setting('role') = 'spine_caller' and app.may('integrations:manage')) then
        raise exception 'this asks for integrations:manage' using errcode = 'insufficient_privilege';
    end if;
    select i.external_tenant_id into v_tenant from public.org_integrations i
     where i.org_id = v_org and i.provider = 'fortnox' and i.status = 'connected';
    if v_tenant is null then
        return null;
    end if;
    insert into public.fortnox_sync_state as s (org_id, tenant, full_wanted) values (v_org, v_tenant, p_full)
    on conflict (org_id) do update set full_wanted = s.full_wanted or excluded.full_wanted;
    -- One that fails is tried again then; one that ends says itself when the next is due.
    update public.org_integrations i set sync_after = now() + interval '15 minutes' where i.org_id = v_org and i.provider = 'fortnox';
    insert into public.jobs as j (org_id, job_type, payload, unique_key, created_by)
    values (v_org, 'fortnox_sync', jsonb_build_object('asked_at', now()), 'fortnox', v_actor)
    on conflict (org_id, job_type, unique_key) where unique_key is not null
    do update set status = 'queued', attempts = 0, run_after = now(), finished_at = null, last_error = null, result = null, progress = null,
                  wait_reason = null, cancel_requested_at = null, payload = excluded.payload, created_by = excluded.created_by
       where j.status in ('succeeded', 'failed', 'cancelled');
    select j.id into v_job from public.jobs j where j.org_id = v_org and j.job_type = 'fortnox_sync' and j.unique_key = 'fortnox';
    return v_job;
end
$$;
comment on function app.admit_fortnox_sync(boolean) is 'Queues the reading of the organisation''s Fortnox, once until it has ended.';

-- When an organisation's last night began: two in the morning in Sweden, where Fortnox' companies are, and up to an hour later by its id, so
-- that they do not all come at once.
create function app.fortnox_night(p_org uuid, p_now timestamptz) returns timestamptz
    language sql stable set search_path = '' as $$
    select max(n.began)
      from (select (date_trunc('day', p_now at time zone 'Europe/Stockholm') - make_interval(days => d)
                    + make_interval(hours => 2, mins => abs(hashtextextended(p_org::text, 1) % 60)::integer)) at time zone 'Europe/Stockholm' as began
              from generate_series(0, 1) d) n
     where n.began <= p_now
$$;
comment on function app.fortnox_night(uuid, timestamptz) is 'When an organisation''s last full reading of Fortnox was due.';

-- Organisations whose Fortnox is to be read, and whether in full: that is once a night. Ids alone.
create function app.due_fortnox_syncs(p_now timestamptz, p_most integer) returns table (org_id uuid, is_full boolean)
    language sql stable security definer set search_path = '' as $$
    select i.org_id, coalesce((select s.full_wanted or s.full_at < app.fortnox_night(i.org_id, p_now)
                                 from public.fortnox_sync_state s where s.org_id = i.org_id), true)
      from public.org_integrations i
     where i.provider = 'fortnox' and i.status = 'connected' and i.sync_after <= p_now
     order by i.sync_after limit least(p_most, 1000)
$$;
comment on function app.due_fortnox_syncs(timestamptz, integer) is 'Which organisations'' Fortnox is to be read now.';

-- How old the oldest refresh token is, in days, and how many connections wait for a person. Numbers alone.
create function app.fortnox_token_ages(p_now timestamptz, out oldest_days double precision, out to_reconnect bigint)
    language sql stable security definer set search_path = '' as $$
    select coalesce(greatest(0, extract(epoch from p_now - (
               select min(i.issued_at) from public.org_integrations i
                where i.provider = 'fortnox' and i.status = 'connected' and i.grant_type = 'refresh_token')) / 86400), 0),
           (select count(*) from public.org_integrations i where i.provider = 'fortnox' and i.status = 'reconnect')
$$;
comment on function app.fortnox_token_ages(timestamptz) is 'How old the oldest refresh token is, and how many connections wait for a person.';

-- Organisations whose refresh token was issued twenty days ago or earlier. It dies after 45.
create function app.idle_fortnox_tokens(p_now timestamptz, p_most integer) returns table (org_id uuid)
    language sql stable security definer set search_path = '' as $$
    select i.org_id from public.org_integrations i
     where i.provider = 'fortnox' and i.status = 'connected' and i.grant_type = 'refresh_token' and i.issued_at < p_now - interval '20 days'
     order by i.issued_at limit least(p_most, 1000)
$$;
comment on function app.idle_fortnox_tokens(timestamptz, integer) is 'Organisations whose refresh token has not been used for twenty days.';

-- As before, with the switch of fortnox_sync.
create or replace function app.wait_is_over(p_org uuid, p_type text, p_wait jsonb) returns boolean
    language sql stable set search_path = '' as $$
    select case p_wait ->> 'reason'
        when 'limit' then
            (p_wait #>> '{limit,version}') is distinct from
            app.limit_in_force(p_org, p_wait #>> '{limit,agent}', p_wait ->> 'scope', p_wait #>> '{limit,scope_id}', p_wait #>> '{limit,period}')
            -- Made to wait before versions were named.
            or p_wait #> '{limit,version}' is null
        when 'paused' then
            app.setting(case p_type when 'render' then 'renders.enabled' when 'insight' then 'insights.enabled'
                                    when 'lead_assign' then 'leads.enabled' when 'fortnox_sync' then 'fortnox.enabled' end) = 'true'
        else false
    end
$$;

grant execute on function app.admit_fortnox_sync(boolean) to spine_caller, spine_service;
grant execute on function app.due_fortnox_syncs(timestamptz, integer), app.fortnox_token_ages(timestamptz), app.idle_fortnox_tokens(timestamptz, integer)
    to spine_service;

reset role;
