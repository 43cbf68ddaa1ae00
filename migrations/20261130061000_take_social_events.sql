-- Take what Meta and TikTok deliver, queue the work on it and the reading of accounts, and share the pace of calls.
--
-- Locks:   none on tables.
-- Rollout: expand.
-- Undo:    drop the functions; create or replace app.wait_is_over as 20261130050000 has it.

set local role spine_definer;

-- Serialises the end of an organisation's work on deliveries with deliveries: whoever stores entries shares the lock until it commits, and the worker that
-- is about to end takes it alone. What found the job open can then be seen by that worker, and what comes later finds it ended.
create function app.lock_social_events() returns void
    language sql volatile security definer set search_path = '' as $$
    select pg_advisory_xact_lock(hashtextextended('spine social events ' || app.service_org(), 0))
     where current_setting('role') = 'spine_service' and app.service_org() is not null
$$;
comment on function app.lock_social_events() is 'Waits until deliveries of the organisation that are being stored have been, and has others wait until this transaction ends.';

-- Stores entries of one delivered body: one row for each entry and each organisation that has connected the entry's account, and one job for each
-- organisation that works on them. An entry that was stored before is not stored again. Mostly a body has one entry, and its job is open already: short
-- steps cost that a third less than statements for any number. Callers sort the entries: two deliveries of the same ones then write rows in the same
-- order, and cannot deadlock. How many rows are new, how many entries are of accounts that no organisation has connected, and which jobs' workers are to
-- be woken.
create function app.take_social_events(p_provider text, p_digest bytea, p_accounts text[], p_types text[], p_raws bytea[],
                                       out stored bigint, out unowned bigint, out due_orgs uuid[], out due_jobs uuid[])
    -- Also where the tables are small, since a plan lasts as long as a connection.
    language plpgsql volatile security definer set search_path = '' set enable_seqscan = off as $$
declare
    v_places integer[] := '{}';
    v_owners uuid[] := '{}';
    v_orgs   uuid[] := '{}';
    v_org    uuid;
    v_job    uuid;
    v_place  integer;
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system stores deliveries' using errcode = 'insufficient_privilege';
    end if;
    stored := 0;
    unowned := 0;
    for v_entry in 1 .. cardinality(p_accounts) loop
        for v_org in
            select a.org_id from public.social_accounts a
             where a.platform_id = p_accounts[v_entry] and a.status <> 'disconnected'
               and (p_provider = 'meta' and a.platform in ('instagram', 'facebook') or p_provider = 'tiktok' and a.platform = 'tiktok')
             order by 1
        loop
            v_places := v_places || v_entry;
            v_owners := v_owners || v_org;
        end loop;
        if not found then
            unowned := unowned + 1;
        end if;
    end loop;
    if cardinality(v_places) = 1 then
        v_place := v_places[1];
        v_org := v_owners[1];
        insert into public.webhook_events (provider, event_id, org_id, raw, event_type, object_id, body_digest)
        values (p_provider, encode(sha256(p_raws[v_place]), 'hex') || ':' || v_org, v_org, p_raws[v_place], p_types[v_place], p_accounts[v_place], p_digest)
        on conflict (provider, event_id) do nothing;
        if found then
            v_orgs := v_owners;
            stored := 1;
        end if;
    else
        with written as (
            insert into public.webhook_events (provider, event_id, org_id, raw, event_type, object_id, body_digest)
            select p_provider, encode(sha256(p_raws[o.place]), 'hex') || ':' || o.org_id, o.org_id, p_raws[o.place], p_types[o.place], p_accounts[o.place], p_digest
              from unnest(v_places, v_owners) o (place, org_id)
            on conflict (provider, event_id) do nothing
            returning org_id)
        select count(*), coalesce(array_agg(distinct w.org_id order by w.org_id), '{}') into stored, v_orgs from written w;
    end if;
    foreach v_org in array v_orgs loop
        perform pg_advisory_xact_lock_shared(hashtextextended('spine social events ' || v_org, 0));
        continue when exists (select from public.jobs j where j.org_id = v_org and j.job_type = 'social_events' and j.unique_key = 'inbox'
                                                          and j.status in ('queued', 'running'));
        insert into public.jobs as j (org_id, job_type, unique_key) values (v_org, 'social_events', 'inbox')
        on conflict (org_id, job_type, unique_key) where unique_key is not null
        do update set status = 'queued', attempts = 0, run_after = now(), finished_at = null, last_error = null, result = null, progress = null,
                      wait_reason = null, cancel_requested_at = null
           where j.status in ('succeeded', 'failed', 'cancelled')
        returning j.id into v_job;
        if v_job is not null then
            due_orgs := due_orgs || v_org;
            due_jobs := due_jobs || v_job;
        end if;
    end loop;
end
$$;
comment on function app.take_social_events(text, bytea, text[], text[], bytea[]) is
    'Stores entries of a body that Meta or TikTok delivered, for each organisation its own, and queues the work on them.';

-- The job that reads an account: queued, whether it was or had ended; one at a time. Null where the account is not one that can be read.
-- For a person who may answer, and for the system.
create function app.admit_social_fetch(p_account uuid) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org   uuid := app.current_org_id();
    v_actor uuid := case when current_setting('role') = 'spine_caller' then app.uid() end;
    v_job   uuid;
begin
    if v_org is null or not (current_setting('role') = 'spine_service'
                             or current_setting('role') = 'spine_caller' and app.may('social:answer')) then
        raise exception 'this asks for social:answer' using errcode = 'insufficient_privilege';
    end if;
    -- The job before the account, as the worker that holds the job locks them.
    perform from public.jobs j where j.org_id = v_org and j.job_type = 'social_fetch' and j.unique_key = p_account::text for update;
    -- One that fails is tried again then; one that ends says itself when the next is due.
    update public.social_accounts a set wanted_at = clock_timestamp(), fetch_after = now() + interval '15 minutes'
     where a.org_id = v_org and a.id = p_account and a.status = 'active';
    if not found then
        return null;
    end if;
    insert into public.jobs as j (org_id, job_type, payload, unique_key, created_by)
    values (v_org, 'social_fetch', jsonb_build_object('account_id', p_account), p_account::text, v_actor)
    on conflict (org_id, job_type, unique_key) where unique_key is not null
    do update set status = 'queued', attempts = 0, run_after = now(), finished_at = null, last_error = null, result = null, progress = null,
                  wait_reason = null, cancel_requested_at = null, created_by = excluded.created_by
       where j.status in ('succeeded', 'failed', 'cancelled');
    select j.id into v_job from public.jobs j where j.org_id = v_org and j.job_type = 'social_fetch' and j.unique_key = p_account::text;
    return v_job;
end
$$;
comment on function app.admit_social_fetch(uuid) is 'Queues the reading of a social account, once until it has ended.';

-- Accounts that are to be read. Ids alone.
create function app.due_social_fetches(p_now timestamptz, p_most integer) returns table (org_id uuid, account_id uuid)
    language sql stable security definer set search_path = '' as $$
    select a.org_id, a.id from public.social_accounts a
     where a.status = 'active' and a.fetch_after <= p_now order by a.fetch_after limit least(p_most, 1000)
$$;
comment on function app.due_social_fetches(timestamptz, integer) is 'Which social accounts are to be read now.';

-- Queues the work on entries that wait for a minute and that no job is about, as when its last attempt failed. The jobs, to be woken.
create function app.requeue_social_events(p_most integer) returns table (org_id uuid, job_id uuid)
    language sql volatile security definer set search_path = '' as $$
    with waiting as (
        select distinct e.org_id from (
            select w.org_id from public.webhook_events w
             where w.provider in ('meta', 'tiktok') and w.status = 'received' and w.received_at < now() - interval '1 minute'
               and not exists (select from public.jobs j where j.org_id = w.org_id and j.job_type = 'social_events' and j.unique_key = 'inbox'
                                                           and j.status in ('queued', 'running'))
             limit 10000) e
         limit least(p_most, 1000))
    insert into public.jobs as j (org_id, job_type, unique_key)
    select w.org_id, 'social_events', 'inbox' from waiting w order by 1
    on conflict (org_id, job_type, unique_key) where unique_key is not null
    do update set status = 'queued', attempts = 0, run_after = now(), finished_at = null, last_error = null, result = null, progress = null,
                  wait_reason = null, cancel_requested_at = null
       where j.status in ('succeeded', 'failed', 'cancelled')
    returning j.org_id, j.id
$$;
comment on function app.requeue_social_events(integer) is 'Queues the work on delivered entries that no open job is about.';

-- Deletes what was delivered before a time and worked on. A platform sends again for three days at most. What failed is kept for a month, so that
-- a person can look at it.
create function app.forget_social_events(p_before timestamptz, p_most integer) returns bigint
    language sql volatile security definer set search_path = '' as $$
    with old as (
        select e.id from public.webhook_events e
         where e.provider in ('meta', 'tiktok') and e.status <> 'received'
           and e.received_at < p_before - case when e.status in ('failed', 'unparsed') then interval '23 days' else interval '0' end
           and e.received_at < p_before
         order by e.received_at limit least(p_most, 10000)),
    gone as (delete from public.webhook_events e using old o where e.id = o.id returning 1)
    select count(*) from gone
$$;
comment on function app.forget_social_events(timestamptz, integer) is
    'Deletes deliveries of Meta and TikTok that were worked on, so that a message deleted there is not kept here. How many.';

-- How long a call is to wait. It takes its turn: the next one of the same account follows `p_gap_ms` later. No turn is taken where the wait would be
-- longer than `p_most_ms`.
create function app.take_social_turn(p_platform text, p_account text, p_gap_ms integer, p_most_ms integer, out wait_ms integer, out why text)
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_now timestamptz := clock_timestamp();
    v_app public.social_pace;
    v_at  timestamptz;
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system calls platforms' using errcode = 'insufficient_privilege';
    end if;
    select * into v_app from public.social_pace p where p.platform = p_platform and p.scope = 'app';
    insert into public.social_pace (platform, scope) values (p_platform, 'account:' || p_account) on conflict do nothing;
    select greatest(v_now, p.next_at, v_app.next_at), p.why into v_at, why
      from public.social_pace p where p.platform = p_platform and p.scope = 'account:' || p_account for update;
    -- Time went on while this waited for its turn at the row.
    v_now := clock_timestamp();
    v_at := greatest(v_at, v_now);
    wait_ms := ceil(extract(epoch from v_at - v_now) * 1000);
    if v_app.next_at >= v_at then
        why := v_app.why;
    end if;
    if wait_ms <= p_most_ms then
        update public.social_pace p set next_at = v_at + make_interval(secs => p_gap_ms / 1000.0), why = null
         where p.platform = p_platform and p.scope = 'account:' || p_account;
    end if;
end
$$;
comment on function app.take_social_turn(text, text, integer, integer) is 'How long a call to a platform is to wait, over all who call for the application and the account.';

-- Has the application, or one account, rest for some time. A longer rest stays.
create function app.rest_from_social(p_platform text, p_account text, p_rest_ms integer, p_why text) returns void
    language sql volatile security definer set search_path = '' as $$
    insert into public.social_pace as p (platform, scope, next_at, why)
    select p_platform, coalesce('account:' || p_account, 'app'), clock_timestamp() + make_interval(secs => least(p_rest_ms, 86400000) / 1000.0), left(p_why, 100)
     where current_setting('role') = 'spine_service'
    on conflict (platform, scope) do update set next_at = excluded.next_at, why = excluded.why where p.next_at < excluded.next_at
$$;
comment on function app.rest_from_social(text, text, integer, text) is 'Has the application, or one account, rest from a platform.';

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
                             when p_type like 'fortnox\_%' then 'fortnox.enabled' when p_type like 'social\_%' then 'social.enabled' end) = 'true'
        else false
    end
$$;

grant execute on function app.take_social_events(text, bytea, text[], text[], bytea[]), app.lock_social_events(), app.due_social_fetches(timestamptz, integer),
    app.requeue_social_events(integer), app.forget_social_events(timestamptz, integer), app.take_social_turn(text, text, integer, integer),
    app.rest_from_social(text, text, integer, text) to spine_service;
grant execute on function app.admit_social_fetch(uuid) to spine_caller, spine_service;

reset role;
