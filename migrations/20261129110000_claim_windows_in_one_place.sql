-- Claim the windows of a limit in a function of its own, app.claim_windows, so that what is counted without a job is held to the same
-- limits by the same text.
--
-- Locks:   none.
-- Rollout: expand; app.reserve_usage answers as before.
-- Undo:    create or replace app.reserve_usage as 20261129040600 has it, and drop app.claim_windows.

set local role spine_definer;

-- Reserves in every window that has a limit, or in none. `windows` are those it was reserved in; null where a limit is reached, with its
-- scope and when its window ends; never, if the amounts alone are larger than the limit. An audit entry tells once for each window when
-- what is reserved and used passes the limit's warning, and once when a claim found no room.
--
-- Closed where it cannot tell: a window that somebody else holds for longer than lock_timeout, or in a circle with this transaction, is
-- answered with the scope `limiter` and when to try again, and nothing is reserved.
--
-- Its callers are definer functions, which check who asks and for whom.
create function app.claim_windows(p_org uuid, p_agent text, p_user uuid, p_project uuid,
                                  p_requests bigint, p_tokens bigint, p_cost bigint,
                                  out windows jsonb, out reached_scope text, out opens_at timestamptz, out reached_limit jsonb)
    language plpgsql volatile set search_path = '' set lock_timeout = '2s' as $$
declare
    v_windows jsonb := '[]';
    v_warn    jsonb := '[]';
    l         record;
    u         record;
    v_start   timestamptz;
begin
    if coalesce(least(p_requests, p_tokens, p_cost), -1) < 0 or p_requests is null or p_tokens is null or p_cost is null then
        raise exception 'a reservation cannot be negative' using errcode = 'invalid_parameter_value';
    end if;
    begin
        for l in
            with counted (scope, scope_id) as (values ('agent', p_org), ('project', p_project), ('user', p_user))
            select distinct on (c.scope, m.period) c.scope, c.scope_id, m.period,
                   m.id, m.max_requests, m.max_tokens, m.max_cost_micro_usd, m.warn_percent, m.updated_at
              from counted c
              join (select a.id, a.scope, a.scope_id, a.period, a.max_requests, a.max_tokens, a.max_cost_micro_usd, a.warn_percent, a.updated_at, 0 as made
                      from public.agent_limits a where a.org_id = p_org and a.agent = p_agent
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
            select p_org, p_agent, l.scope, l.scope_id, l.period, v_start, p_requests, p_tokens, p_cost
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
                 where g.org_id = p_org and g.agent = p_agent and g.scope = l.scope and g.scope_id = l.scope_id and g.period = l.period
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
        windows := v_windows;
    exception
        when sqlstate 'SP001' then
            null;
        when lock_not_available or deadlock_detected then
            reached_scope := 'limiter';
            opens_at := clock_timestamp() + interval '5 seconds';
            reached_limit := null;
            return;
    end;
    -- For what was reserved, or for what stood in the way: a claim that was taken back brought nobody nearer to another limit.
    if coalesce(v_warn, '[]') <> '[]' then
        begin
            perform app.warn_of_limits(p_org, v_warn);
        exception when lock_not_available or deadlock_detected then
            -- The next claim tells.
            null;
        end;
    end if;
end
$$;
comment on function app.claim_windows(uuid, text, uuid, uuid, bigint, bigint, bigint) is
    'Reserves in every window that has a limit, or in none.';

-- Reserves for a job, as app.claim_windows does. A job that holds a reservation keeps that one, for longer.
create or replace function app.reserve_usage(p_job uuid, p_agent text, p_user uuid, p_project uuid,
                                  p_requests bigint, p_tokens bigint, p_cost bigint,
                                  out reservation_id uuid, out reached_scope text, out opens_at timestamptz, out reached_limit jsonb)
    language plpgsql volatile security definer set search_path = '' set lock_timeout = '2s' as $$
declare
    v_org     uuid  := app.current_org_id();
    v_windows jsonb;
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
    begin
        update public.usage_reservations r set expires_at = now() + interval '1 hour'
         where r.org_id = v_org and r.job_id = p_job and r.state = 'active' returning r.id into reservation_id;
        if found then
            return;
        end if;
        select c.windows, c.reached_scope, c.opens_at, c.reached_limit into v_windows, reached_scope, opens_at, reached_limit
          from app.claim_windows(v_org, p_agent, p_user, p_project, p_requests, p_tokens, p_cost) c;
        if v_windows is not null then
            insert into public.usage_reservations (org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
            values (v_org, p_job, p_agent, p_requests, p_tokens, p_cost, v_windows, now() + interval '1 hour')
            returning id into reservation_id;
        end if;
    exception when lock_not_available or deadlock_detected then
        reservation_id := null;
        reached_scope := 'limiter';
        opens_at := clock_timestamp() + interval '5 seconds';
        reached_limit := null;
    end;
end
$$;

reset role;
