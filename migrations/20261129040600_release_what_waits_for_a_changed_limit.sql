-- Release jobs that wait for a limit once that limit is another, and jobs that a switch has paused once it is on.
--
-- Locks:   none.
-- Rollout: expand; app.reserve_usage tells one thing more, and deployed functions ask it by the names of what they know. What they made
--          wait is looked at once.
-- Undo:    drop app.reserve_usage and create it as 20261121004400 does, with its grant; create or replace app.postpone_job as 20261121000700
--          has it; drop the functions made here.

set local role spine_definer;

-- What a limit said: another number, or a limit that was deleted and made again, is another version. Tells nothing of the numbers.
create function app.limit_version(p_limit uuid, p_requests bigint, p_tokens bigint, p_cost bigint) returns text
    language sql immutable set search_path = '' as $$
    select md5(row(p_limit, p_requests, p_tokens, p_cost)::text)
$$;
comment on function app.limit_version(uuid, bigint, bigint, bigint) is 'What tells a limit from what becomes of it.';

-- The version of the limit that holds for one user, project or agent in one period: its own, or that of each. Null if there is none.
create function app.limit_in_force(p_org uuid, p_agent text, p_scope text, p_scope_id text, p_period text) returns text
    language sql stable set search_path = '' as $$
    select app.limit_version(a.id, a.max_requests, a.max_tokens, a.max_cost_micro_usd)
      from public.agent_limits a
     where a.org_id = p_org and a.agent = p_agent and a.scope = p_scope and a.period = p_period
       and (a.scope_id::text = p_scope_id or a.scope_id is null)
     order by a.scope_id nulls last limit 1
$$;

-- squawk-ignore ban-drop-function
drop function app.reserve_usage(uuid, text, uuid, uuid, bigint, bigint, bigint); -- Made again below, with one answer more.

-- Reserves in every window that has a limit, or in none. Returns the reservation, or which limit is reached and when its window ends;
-- never, if the request alone is larger than the limit. A job that holds a reservation keeps that one, for longer. An audit entry tells
-- once for each window when what is reserved and used passes the limit's warning.
--
-- Closed where it cannot tell: a window that somebody else holds for longer than lock_timeout, or in a circle with this transaction, is
-- answered with the scope `limiter` and when to try again, and nothing is reserved.
create function app.reserve_usage(p_job uuid, p_agent text, p_user uuid, p_project uuid,
                                  p_requests bigint, p_tokens bigint, p_cost bigint,
                                  out reservation_id uuid, out reached_scope text, out opens_at timestamptz, out reached_limit jsonb)
    language plpgsql volatile security definer set search_path = '' set lock_timeout = '2s' as $$
declare
    v_org     uuid  := app.current_org_id();
    v_windows jsonb := '[]';
    v_warn    jsonb := '[]';
    l         record;
    u         record;
    v_start   timestamptz;
    v_role    text  := current_setting('role');
    v_actor   uuid  := case when v_role = 'spine_agent' then app.agent_id() else app.uid() end;
begin
    -- A person or agent reserves in their own name, for work they may see; nobody spends another's limit.
    if v_org is null or not exists (
        select from public.jobs j where j.id = p_job and j.org_id = v_org
           and (v_role = 'spine_service'
                or (p_user = v_actor
                    and (j.created_by = v_actor
                         or case when v_role = 'spine_agent' then app.agent_may('renders:read_all') else app.may('renders:read_all') end)))) then
        raise exception 'no such job in this organisation' using errcode = 'insufficient_privilege';
    end if;
    if least(p_requests, p_tokens, p_cost) < 0 then
        raise exception 'a reservation cannot be negative' using errcode = 'invalid_parameter_value';
    end if;
    begin
        update public.usage_reservations r set expires_at = now() + interval '1 hour'
         where r.org_id = v_org and r.job_id = p_job and r.state = 'active' returning r.id into reservation_id;
        if found then
            return;
        end if;
        for l in
            with counted (scope, scope_id) as (values ('agent', v_org), ('project', p_project), ('user', p_user))
            select distinct on (c.scope, m.period) c.scope, c.scope_id, m.period,
                   m.id, m.max_requests, m.max_tokens, m.max_cost_micro_usd, m.warn_percent, m.updated_at
              from counted c
              join (select a.id, a.scope, a.scope_id, a.period, a.max_requests, a.max_tokens, a.max_cost_micro_usd, a.warn_percent, a.updated_at, 0 as made
                      from public.agent_limits a where a.org_id = v_org and a.agent = p_agent
                    union all
                    -- Counted without a limit too: an invoice needs the month.
                    select null, 'agent', null, 'month', null, null, null, null, null, 1) m
                on m.scope = c.scope and (m.scope_id = c.scope_id or m.scope_id is null)
             where c.scope_id is not null
             order by c.scope, m.period, m.scope_id nulls last, m.made
        loop
            v_start := date_trunc(l.period, now(), 'UTC');
            insert into public.agent_usage as g (org_id, agent, scope, scope_id, period, period_start,
                                                 reserved_requests, reserved_tokens, reserved_cost_micro_usd)
            select v_org, p_agent, l.scope, l.scope_id, l.period, v_start, p_requests, p_tokens, p_cost
             where p_requests <= coalesce(l.max_requests, p_requests) and p_tokens <= coalesce(l.max_tokens, p_tokens)
               and p_cost <= coalesce(l.max_cost_micro_usd, p_cost)
            on conflict (org_id, agent, scope, scope_id, period, period_start) do update
               set reserved_requests = g.reserved_requests + excluded.reserved_requests,
                   reserved_tokens = g.reserved_tokens + excluded.reserved_tokens,
                   reserved_cost_micro_usd = g.reserved_cost_micro_usd + excluded.reserved_cost_micro_usd
             where (l.max_requests is null or g.used_requests + g.reserved_requests + p_requests <= l.max_requests)
               and (l.max_tokens is null or g.used_tokens + g.reserved_tokens + p_tokens <= l.max_tokens)
               and (l.max_cost_micro_usd is null or g.used_cost_micro_usd + g.reserved_cost_micro_usd + p_cost <= l.max_cost_micro_usd)
            returning g.used_requests + g.reserved_requests as requests, g.used_tokens + g.reserved_tokens as tokens,
                      g.used_cost_micro_usd + g.reserved_cost_micro_usd as cost, g.warned_at into u;
            if not found then
                reached_scope := l.scope;
                if p_requests <= coalesce(l.max_requests, p_requests) and p_tokens <= coalesce(l.max_tokens, p_tokens)
                   and p_cost <= coalesce(l.max_cost_micro_usd, p_cost) then
                    opens_at := date_add(v_start, ('1 ' || l.period)::interval, 'UTC');
                    -- As it was seen by this very statement, whatever becomes of it meanwhile.
                    reached_limit := jsonb_build_object(
                        'agent', p_agent, 'scope_id', l.scope_id, 'period', l.period,
                        'version', app.limit_version(l.id, l.max_requests, l.max_tokens, l.max_cost_micro_usd));
                end if;
                -- What stands in the way has an entry too; but not for a claim that no window has room for.
                select jsonb_build_array(jsonb_build_object(
                           'agent', p_agent, 'scope', l.scope, 'scope_id', l.scope_id, 'period', l.period, 'period_start', v_start,
                           'reached', true, 'changed_at', l.updated_at, 'percent', x.percent)) into v_warn
                  from public.agent_usage g
                 cross join lateral app.limit_percent(g.used_requests + g.reserved_requests, g.used_tokens + g.reserved_tokens,
                                                      g.used_cost_micro_usd + g.reserved_cost_micro_usd,
                                                      l.max_requests, l.max_tokens, l.max_cost_micro_usd) as x (percent)
                 where g.org_id = v_org and g.agent = p_agent and g.scope = l.scope and g.scope_id = l.scope_id and g.period = l.period
                   and g.period_start = v_start and opens_at is not null and (g.reached_at is null or g.reached_at < l.updated_at);
                -- Takes back what this call has reserved so far.
                raise exception 'limit reached' using errcode = 'SP001';
            end if;
            v_windows := v_windows || jsonb_build_object('scope', l.scope, 'scope_id', l.scope_id, 'period', l.period,
                                                         'period_start', v_start);
            if (u.warned_at is null or u.warned_at < l.updated_at)
               -- Numeric, since a limit may be the largest integer there is.
               and (u.requests * 100.0 >= l.max_requests::numeric * l.warn_percent or u.tokens * 100.0 >= l.max_tokens::numeric * l.warn_percent
                    or u.cost * 100.0 >= l.max_cost_micro_usd::numeric * l.warn_percent) then
                v_warn := v_warn || jsonb_build_object(
                    'agent', p_agent, 'scope', l.scope, 'scope_id', l.scope_id, 'period', l.period, 'period_start', v_start, 'changed_at', l.updated_at,
                    'percent', app.limit_percent(u.requests, u.tokens, u.cost, l.max_requests, l.max_tokens, l.max_cost_micro_usd));
            end if;
        end loop;
        insert into public.usage_reservations (org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
        values (v_org, p_job, p_agent, p_requests, p_tokens, p_cost, v_windows, now() + interval '1 hour')
        returning id into reservation_id;
    exception
        when sqlstate 'SP001' then
            reservation_id := null;
        when lock_not_available or deadlock_detected then
            reservation_id := null;
            reached_scope := 'limiter';
            opens_at := clock_timestamp() + interval '5 seconds';
            return;
    end;
    -- For what was reserved, or for what stood in the way: a claim that was taken back brought nobody nearer to another limit.
    if coalesce(v_warn, '[]') <> '[]' then
        begin
            perform app.warn_of_limits(v_org, v_warn);
        exception when lock_not_available or deadlock_detected then
            -- The next claim tells.
            null;
        end;
    end if;
end
$$;
grant execute on function app.reserve_usage(uuid, text, uuid, uuid, bigint, bigint, bigint) to spine_caller, spine_agent, spine_service;

-- Makes a queued job wait, or, without a reason, lets it run then. For its owner, for those who may see all renders, and for the system.
create or replace function app.postpone_job(p_job uuid, p_run_after timestamptz, p_wait jsonb) returns void
    language plpgsql volatile security definer set search_path = '' as $$
begin
    update public.jobs j set run_after = p_run_after, wait_reason = p_wait
     where j.id = p_job and j.org_id = app.current_org_id() and j.status = 'queued'
       and (current_setting('role') = 'spine_service'
            or (current_setting('role') = 'spine_caller' and app.may('renders:read_all'))
            or (current_setting('role') = 'spine_agent' and app.agent_may('renders:read_all'))
            or j.created_by = case when current_setting('role') = 'spine_agent' then app.agent_id() else app.uid() end);
end
$$;

-- Whether a job that waits for this may go on before its time: the limit is not what it was when the job was refused, or the switch is on.
-- What waits for a provider waits.
create function app.wait_is_over(p_org uuid, p_type text, p_wait jsonb) returns boolean
    language sql stable set search_path = '' as $$
    select case p_wait ->> 'reason'
        when 'limit' then
            (p_wait #>> '{limit,version}') is distinct from
            app.limit_in_force(p_org, p_wait #>> '{limit,agent}', p_wait ->> 'scope', p_wait #>> '{limit,scope_id}', p_wait #>> '{limit,period}')
            -- Made to wait before versions were told.
            or p_wait #> '{limit,version}' is null
        when 'paused' then
            app.setting(case p_type when 'render' then 'renders.enabled' when 'insight' then 'insights.enabled'
                                    when 'lead_assign' then 'leads.enabled' end) = 'true'
        else false
    end
$$;

-- Lets jobs run whose wait is over before its time. One that somebody is changing at this moment is left to the next sweep. How many.
create function app.release_waiting_jobs() returns integer
    language sql volatile security definer set search_path = '' as $$
    -- Each wait is looked at once, however many jobs share it.
    with waits as materialized (
        select w.org_id, w.job_type, w.wait, app.wait_is_over(w.org_id, w.job_type, w.wait) as is_over
          from (select distinct j.org_id, j.job_type, j.wait_reason - 'until' - 'detail' as wait from public.jobs j
                 where j.status = 'queued' and j.wait_reason is not null and j.run_after > now()
                   and j.wait_reason ->> 'reason' in ('limit', 'paused')) w
    ),
    going as (
        select j.id from public.jobs j
          join waits w on w.org_id = j.org_id and w.job_type = j.job_type and w.wait = j.wait_reason - 'until' - 'detail'
         where w.is_over and j.status = 'queued' and j.wait_reason is not null and j.run_after > now()
           for update of j skip locked
    ),
    released as (
        update public.jobs j set run_after = now(), wait_reason = null from going g where j.id = g.id returning 1
    )
    select count(*)::integer from released
$$;
comment on function app.release_waiting_jobs() is 'Lets jobs run that wait for a limit which has changed or a switch which is on. How many.';

-- Has an insight's job looked at now that waits for a limit or a switch. Whether there was one. For those whom the insight is for.
create function app.hurry_insight_job(p_insight uuid) returns boolean
    language sql volatile security definer set search_path = '' as $$
    with hurried as (
        update public.jobs j set run_after = now(), wait_reason = null
          from public.ai_insights i
         where i.org_id = app.current_org_id() and i.id = p_insight and j.org_id = i.org_id and j.id = i.job_id
           and j.status = 'queued' and j.wait_reason ->> 'reason' in ('limit', 'limiter_unavailable', 'paused')
           and (current_setting('role') = 'spine_service'
                or current_setting('role') = 'spine_caller' and (i.user_id = app.uid() or i.user_id is null and app.may(i.audience)))
        returning 1
    )
    select exists (select from hurried)
$$;
comment on function app.hurry_insight_job(uuid) is 'Has an insight''s job looked at now that waits for a limit or a switch. Whether there was one.';

grant execute on function app.release_waiting_jobs() to spine_service;
grant execute on function app.hurry_insight_job(uuid) to spine_caller;

reset role;
