-- Warn before a limit is reached, show use beside limits, and say what happens where the limiter itself cannot answer.
--
-- Locks:   agent_limits, agent_usage and organizations exclusively, for the moment that adding a column or a trigger takes.
-- Rollout: expand; app.reserve_usage answers as before.
-- Undo:    restore app.reserve_usage as 20261121000600 has it, drop the view and the columns.

set local role spine_owner;

alter table public.agent_limits add column warn_percent smallint not null default 80;
alter table public.agent_limits add constraint agent_limits_warn_percent_check check (warn_percent between 1 and 100) not valid;
alter table public.agent_limits validate constraint agent_limits_warn_percent_check;
comment on column public.agent_limits.warn_percent is 'From which share of a limit on a warning is written: once for a window.';
grant insert (warn_percent), update (warn_percent) on public.agent_limits to authenticated;

-- A limit that was changed is warned of anew.
alter table public.agent_limits add column updated_at timestamptz not null default now();
create trigger agent_limits_touch before update on public.agent_limits for each row execute function app.touch_updated_at();

alter table public.agent_usage add column warned_at timestamptz, add column reached_at timestamptz;
comment on column public.agent_usage.warned_at is 'When it was last told that the limit of this window is near: once, unless the limit is changed.';

comment on column public.agent_usage.reached_at is 'When it was last told that a claim found no room in this window: once, unless the limit is changed.';

reset role;
set local role spine_definer;

-- As before, and tells once for each window when what is reserved and used passes the limit's warning.
--
-- Closed where it cannot tell: a window that somebody else holds for longer than lock_timeout, or in a circle with this transaction, is
-- answered with the scope `limiter` and when to try again, and nothing is reserved.
create or replace function app.reserve_usage(p_job uuid, p_agent text, p_user uuid, p_project uuid,
                                  p_requests bigint, p_tokens bigint, p_cost bigint,
                                  out reservation_id uuid, out reached_scope text, out opens_at timestamptz)
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
                   m.max_requests, m.max_tokens, m.max_cost_micro_usd, m.warn_percent, m.updated_at
              from counted c
              join (select a.scope, a.scope_id, a.period, a.max_requests, a.max_tokens, a.max_cost_micro_usd, a.warn_percent, a.updated_at, 0 as made
                      from public.agent_limits a where a.org_id = v_org and a.agent = p_agent
                    union all
                    -- Counted without a limit too: an invoice needs the month.
                    select 'agent', null, 'month', null, null, null, null, null, 1) m
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
                end if;
                -- What stands in the way is told too; but not of a claim that no window has room for.
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
    -- Of what was reserved, or of what stood in the way: a claim that was taken back brought nobody nearer to another limit.
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

create function app.limit_percent(p_requests bigint, p_tokens bigint, p_cost bigint, m_requests bigint, m_tokens bigint, m_cost bigint)
    returns numeric language sql immutable set search_path = '' as $$
    -- Of a limit of nothing all is used.
    select round(greatest(case m_requests when 0 then 100 else p_requests * 100.0 / m_requests end,
                          case m_tokens when 0 then 100 else p_tokens * 100.0 / m_tokens end,
                          case m_cost when 0 then 100 else p_cost * 100.0 / m_cost end), 1)
$$;
comment on function app.limit_percent(bigint, bigint, bigint, bigint, bigint, bigint) is
    'The largest share of requests, tokens and cost that is reserved and used, in percent. Null without a limit.';

create function app.warn_of_limits(p_org uuid, p_windows jsonb) returns void
    language plpgsql volatile set search_path = '' as $$
declare
    w record;
begin
    for w in select * from jsonb_to_recordset(p_windows) as x (agent text, scope text, scope_id uuid, period text, period_start timestamptz, changed_at timestamptz, percent numeric, reached boolean)
              order by scope, period loop
        update public.agent_usage g
           set warned_at = case when w.reached then g.warned_at else now() end, reached_at = case when w.reached then now() else g.reached_at end
         where g.org_id = p_org and g.agent = w.agent and g.scope = w.scope and g.scope_id = w.scope_id and g.period = w.period
           and g.period_start = w.period_start
           and coalesce(case when w.reached then g.reached_at else g.warned_at end, '-infinity') < coalesce(w.changed_at, 'infinity');
        if found then
            perform app.append_audit(case when w.reached then 'limit.reached' else 'limit.near' end, 'agent_usage', w.agent || '/' || w.scope || '/' || w.scope_id || '/' || w.period,
                                     jsonb_build_object('period_start', w.period_start), jsonb_build_object('percent', w.percent), null, '{}',
                                     null, null, null, null);
        end if;
    end loop;
end
$$;
revoke execute on function app.limit_percent(bigint, bigint, bigint, bigint, bigint, bigint), app.warn_of_limits(uuid, jsonb) from public;
grant execute on function app.limit_percent(bigint, bigint, bigint, bigint, bigint, bigint) to authenticated, spine_service;

reset role;
set local role spine_owner;

-- Each limit with each window of it that is open now and was used, and how near it is. Who may see limits and use sees it.
create view public.usage_report with (security_invoker = true) as
select g.org_id, g.agent, g.scope, g.scope_id, g.period, g.period_start,
       date_add(g.period_start, ('1 ' || g.period)::interval, 'UTC') as period_end,
       g.used_requests, g.reserved_requests, l.max_requests, g.used_tokens, g.reserved_tokens, l.max_tokens,
       g.used_cost_micro_usd, g.reserved_cost_micro_usd, l.max_cost_micro_usd, x.percent, g.warned_at, g.reached_at,
       case when l.id is null then 'unlimited' when x.percent >= 100 then 'reached' when x.percent >= l.warn_percent then 'near' else 'ok' end as state
  from public.agent_usage g
  left join lateral (
       select a.* from public.agent_limits a
        where a.org_id = g.org_id and a.agent = g.agent and a.scope = g.scope and a.period = g.period
          and (a.scope_id = g.scope_id or a.scope_id is null)
        order by a.scope_id nulls last limit 1) l on true
 cross join lateral (
       select app.limit_percent(g.used_requests + g.reserved_requests, g.used_tokens + g.reserved_tokens,
                                g.used_cost_micro_usd + g.reserved_cost_micro_usd, l.max_requests, l.max_tokens, l.max_cost_micro_usd) as percent) x
 where g.period_start = date_trunc(g.period, now(), 'UTC');
comment on view public.usage_report is
    'Use beside limits, for windows that are open now. state: unlimited, ok, near (the warning was passed) or reached.';
grant select on public.usage_report to authenticated;

reset role;

-- Every agent of an organisation begins with a limit, until its owner decides otherwise; the renderer's is made with the organisation.
set local role spine_definer;

create function app.limit_new_organization() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    insert into public.agent_limits (org_id, agent, scope, period, max_requests, max_cost_micro_usd)
    select o.id, x.agent, 'agent', 'month', x.requests, x.cost
      from new_rows o, (values ('analyst', 2000, 20000000::bigint), ('lead_assigner', 5000, 20000000)) x (agent, requests, cost)
    on conflict do nothing;
    return null;
end
$$;
comment on function app.limit_new_organization() is 'Gives a new organisation''s analyst and lead assigner a monthly limit of twenty dollars each.';
revoke execute on function app.limit_new_organization() from public;
grant execute on function app.limit_new_organization() to spine_owner;

reset role;
set local role spine_owner;

create trigger organizations_limit after insert on public.organizations referencing new table as new_rows
    for each statement execute function app.limit_new_organization();
alter table public.agent_limits no force row level security;
alter table public.organizations no force row level security;
insert into public.agent_limits (org_id, agent, scope, period, max_requests, max_cost_micro_usd)
select o.id, x.agent, 'agent', 'month', x.requests, x.cost
  from public.organizations o, (values ('analyst', 2000, 20000000::bigint), ('lead_assigner', 5000, 20000000)) x (agent, requests, cost)
on conflict do nothing;
alter table public.agent_limits force row level security;
alter table public.organizations force row level security;

reset role;
