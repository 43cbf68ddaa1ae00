-- Count daily and monthly limits by the organisation's own days and months, and keep the windows that are open when its zone changes.
--
-- Locks:   agent_usage exclusively, for the moment that adding a column without a default takes; organizations for the moment that making a
--          trigger takes; data_ownership exclusively, for one insert.
-- Rollout: expand. Every organisation is in UTC when this runs, whose windows stay as they are.
-- Undo:    create or replace app.claim_windows as 20261129110000 has it, the view as 20261121004400 and public.increment_render_counter as
--          20261121001900; then drop the functions, trigger, table and column of this file.

set local role spine_owner;

alter table public.agent_usage add column period_end timestamptz;
comment on column public.agent_usage.period_end is 'When the window ends, exclusive. Null in windows from before it was kept: those are of UTC.';

create table public.limit_windows (
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    period       text        not null,
    period_start timestamptz not null,
    period_end   timestamptz not null,
    first_day    date        not null,
    primary key (org_id, period),
    constraint limit_windows_period_check check (period in ('day', 'month')),
    constraint limit_windows_order_check check (period_start < period_end)
);
comment on table public.limit_windows is
    'The windows of limits that were open when an organisation''s time zone was last changed. They end when they would have ended, and the first of the new zone follow them.';
comment on column public.limit_windows.first_day is 'The day, or the first day of the month, that the window was for.';

alter table public.limit_windows enable row level security;
alter table public.limit_windows force row level security;
create policy limit_windows_select on public.limit_windows for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('limits:read')));
create policy limit_windows_definer_all on public.limit_windows for all to spine_definer using (true) with check (true);
grant select on public.limit_windows to authenticated;
grant select, insert, update on public.limit_windows to spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values ('limit_windows', null, 'system');
alter table public.data_ownership force row level security;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- The window of a limit that an instant lies in. Minutes and hours are those of UTC everywhere. Days and months are the organisation's,
-- and each has one window:
--
-- A window that was open when the zone changed ends when it would have. The next begins there and is for the day (or month) that it is
-- then in the new zone, or for the next one if the window before was for that: so a change of zone makes the first window shorter where
-- the new zone is ahead, and longer where it is behind. However often a zone is changed, no day and no month is had twice.
create function app.limit_window(p_org uuid, p_zone text, p_period text, p_at timestamptz,
                                 out period_start timestamptz, out period_end timestamptz, out first_day date)
    language plpgsql stable strict set search_path = '' as $$
declare
    v_step  interval := ('1 ' || p_period)::interval;
    v_start timestamptz;
    v_end   timestamptz;
    v_first date;
begin
    if p_period in ('minute', 'hour') then
        period_start := date_trunc(p_period, p_at, 'UTC');
        period_end := period_start + v_step;
        first_day := (period_start at time zone 'UTC')::date;
        return;
    end if;
    select w.period_start, w.period_end, w.first_day into v_start, v_end, v_first
      from public.limit_windows w where w.org_id = p_org and w.period = p_period;
    if p_at < v_end and p_at >= v_start then
        period_start := v_start;
        period_end := v_end;
        first_day := v_first;
        return;
    end if;
    -- Only soon after it can the next one be the first.
    if p_at >= v_end and p_at < v_end + v_step * 3 then
        select greatest(z.first_day, (v_first + v_step)::date) into first_day from app.zone_period(p_period, v_end, p_zone) z;
        period_start := v_end;
        period_end := app.day_start((first_day + v_step)::date, p_zone);
        if p_at < period_end then
            return;
        end if;
    end if;
    select z.period_start, z.period_end, z.first_day into period_start, period_end, first_day from app.zone_period(p_period, p_at, p_zone) z;
end
$$;
comment on function app.limit_window(uuid, text, text, timestamptz) is 'The window of an organisation''s limits that an instant lies in, in this zone.';

-- Keeps the windows of an organisation in this zone that an instant lies in.
create function app.keep_windows_of(p_org uuid, p_zone text, p_at timestamptz) returns void
    language sql volatile set search_path = '' as $$
    insert into public.limit_windows as k (org_id, period, period_start, period_end, first_day)
    select p_org, p.period, w.period_start, w.period_end, w.first_day
      from unnest(array['day', 'month']) p (period) cross join lateral app.limit_window(p_org, p_zone, p.period, p_at) w
    on conflict (org_id, period) do update
       set period_start = excluded.period_start, period_end = excluded.period_end, first_day = excluded.first_day
$$;
comment on function app.keep_windows_of(uuid, text, timestamptz) is 'Keeps the windows of limits that were open at an instant.';

create function app.keep_limit_windows() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform app.keep_windows_of(new.id, old.time_zone, now());
    return null;
end
$$;
comment on function app.keep_limit_windows() is 'Keeps the windows of limits that are open when an organisation''s time zone becomes another.';
grant execute on function app.keep_limit_windows() to spine_owner;

-- The limits that a claim is held to, each with the window that it falls in: of user, project and agent the one for this very user,
-- project or agent, else the one for each. Without settings of its own, so that it becomes a part of the statement that asks it.
create function app.limits_of_claim(p_org uuid, p_agent text, p_user uuid, p_project uuid)
    returns table (scope text, scope_id uuid, period text, id uuid, max_requests bigint, max_tokens bigint, max_cost_micro_usd bigint,
                   warn_percent smallint, updated_at timestamptz, period_start timestamptz, period_end timestamptz)
    language sql stable as $$
    select l.scope, l.scope_id, l.period, l.id, l.max_requests, l.max_tokens, l.max_cost_micro_usd, l.warn_percent, l.updated_at,
           w.period_start, w.period_end
      from (select distinct on (c.scope, m.period) c.scope, c.scope_id, m.period,
                   m.id, m.max_requests, m.max_tokens, m.max_cost_micro_usd, m.warn_percent, m.updated_at
              from (values ('agent', p_org), ('project', p_project), ('user', p_user)) c (scope, scope_id)
              join (select a.id, a.scope, a.scope_id, a.period, a.max_requests, a.max_tokens, a.max_cost_micro_usd, a.warn_percent, a.updated_at, 0 as made
                      from public.agent_limits a where a.org_id = p_org and a.agent = p_agent
                    union all
                    -- Counted without a limit too: an invoice needs the month.
                    select null, 'agent', null, 'month', null, null, null, null, null, 1) m
                on m.scope = c.scope and (m.scope_id = c.scope_id or m.scope_id is null)
             where c.scope_id is not null
             order by c.scope, m.period, m.scope_id nulls last, m.made) l
     cross join lateral app.limit_window(p_org, (select o.time_zone from public.organizations o where o.id = p_org), l.period, now()) w
     order by l.scope, l.period
$$;

-- As before, in the windows that app.limit_window has. The end of a window stands with what was used of it.
create or replace function app.claim_windows(p_org uuid, p_agent text, p_user uuid, p_project uuid,
                                  p_requests bigint, p_tokens bigint, p_cost bigint,
                                  out windows jsonb, out reached_scope text, out opens_at timestamptz, out reached_limit jsonb)
    language plpgsql volatile set search_path = '' set lock_timeout = '2s' as $$
declare
    v_windows jsonb := '[]';
    v_warn    jsonb := '[]';
    v_window  jsonb;
    l         record;
    u         record;
begin
    if coalesce(least(p_requests, p_tokens, p_cost), -1) < 0 or p_requests is null or p_tokens is null or p_cost is null then
        raise exception 'a reservation cannot be negative' using errcode = 'invalid_parameter_value';
    end if;
    begin
        for l in select * from app.limits_of_claim(p_org, p_agent, p_user, p_project) loop
            v_window := jsonb_build_object('scope', l.scope, 'scope_id', l.scope_id, 'period', l.period, 'period_start', l.period_start);
            insert into public.agent_usage as g (org_id, agent, scope, scope_id, period, period_start, period_end,
                                                 reserved_requests, reserved_tokens, reserved_cost_micro_usd)
            select p_org, p_agent, l.scope, l.scope_id, l.period, l.period_start, l.period_end, p_requests, p_tokens, p_cost
             where p_requests <= coalesce(l.max_requests, p_requests) and p_tokens <= coalesce(l.max_tokens, p_tokens)
               and p_cost <= coalesce(l.max_cost_micro_usd, p_cost)
            on conflict (org_id, agent, scope, scope_id, period, period_start) do update
               set reserved_requests = g.reserved_requests + excluded.reserved_requests,
                   reserved_tokens = g.reserved_tokens + excluded.reserved_tokens,
                   reserved_cost_micro_usd = g.reserved_cost_micro_usd + excluded.reserved_cost_micro_usd,
                   period_end = excluded.period_end
             where (l.max_requests is null or g.used_requests + g.reserved_requests + p_requests <= l.max_requests)
               and (l.max_tokens is null or g.used_tokens + g.reserved_tokens + p_tokens <= l.max_tokens)
               and (l.max_cost_micro_usd is null or g.used_cost_micro_usd + g.reserved_cost_micro_usd + p_cost <= l.max_cost_micro_usd)
            returning g.used_requests + g.reserved_requests as requests, g.used_tokens + g.reserved_tokens as tokens,
                      g.used_cost_micro_usd + g.reserved_cost_micro_usd as cost, g.warned_at into u;
            if not found then
                reached_scope := l.scope;
                if p_requests <= coalesce(l.max_requests, p_requests) and p_tokens <= coalesce(l.max_tokens, p_tokens)
                   and p_cost <= coalesce(l.max_cost_micro_usd, p_cost) then
                    opens_at := l.period_end;
                    -- As it was seen by this very statement, whatever becomes of it meanwhile.
                    reached_limit := jsonb_build_object(
                        'agent', p_agent, 'scope_id', l.scope_id, 'period', l.period,
                        'version', app.limit_version(l.id, l.max_requests, l.max_tokens, l.max_cost_micro_usd));
                end if;
                -- What stands in the way has an entry too; but not for a claim that no window has room for.
                select jsonb_build_array(v_window || jsonb_build_object('agent', p_agent, 'reached', true, 'changed_at', l.updated_at,
                                                                        'percent', x.percent)) into v_warn
                  from public.agent_usage g
                 cross join lateral app.limit_percent(g.used_requests + g.reserved_requests, g.used_tokens + g.reserved_tokens,
                                                      g.used_cost_micro_usd + g.reserved_cost_micro_usd,
                                                      l.max_requests, l.max_tokens, l.max_cost_micro_usd) as x (percent)
                 where g.org_id = p_org and g.agent = p_agent and g.scope = l.scope and g.scope_id = l.scope_id and g.period = l.period
                   and g.period_start = l.period_start and opens_at is not null and (g.reached_at is null or g.reached_at < l.updated_at);
                -- Takes back what this call has reserved so far.
                raise exception 'limit reached' using errcode = 'SP001';
            end if;
            v_windows := v_windows || v_window;
            if (u.warned_at is null or u.warned_at < l.updated_at)
               -- Numeric, since a limit may be the largest integer there is.
               and (u.requests * 100.0 >= l.max_requests::numeric * l.warn_percent or u.tokens * 100.0 >= l.max_tokens::numeric * l.warn_percent
                    or u.cost * 100.0 >= l.max_cost_micro_usd::numeric * l.warn_percent) then
                v_warn := v_warn || (v_window || jsonb_build_object(
                    'agent', p_agent, 'changed_at', l.updated_at,
                    'percent', app.limit_percent(u.requests, u.tokens, u.cost, l.max_requests, l.max_tokens, l.max_cost_micro_usd)));
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

-- The month, by its first day, in which the organisation's renders are counted now.
create function app.render_month(p_org uuid) returns date
    language sql stable set search_path = '' as $$
    select w.first_day from app.limit_window(p_org, (select o.time_zone from public.organizations o where o.id = p_org), 'month', now()) w
$$;
comment on function app.render_month(uuid) is 'The first day of the month in which an organisation''s renders are counted now.';

-- Counts finished renders of the organisation of this transaction, beyond the limit too: they were made.
create function app.count_renders(p_actor uuid, p_renders bigint) returns void
    language sql volatile security definer set search_path = '' as $$
    insert into public.render_counters as c (org_id, actor_id, period_start, renders)
    select o.id, p_actor, app.render_month(o.id), p_renders from (select app.service_org() as id) o
    on conflict (org_id, actor_id, period_start) do update set renders = c.renders + excluded.renders
$$;
comment on function app.count_renders(uuid, bigint) is 'Counts finished renders of a person or agent.';
grant execute on function app.count_renders(uuid, bigint) to spine_service;

-- As before, in the month of the organisation's limits.
create or replace function public.increment_render_counter(user_id uuid) returns bigint
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_role    text := current_setting('role');
    v_org     uuid := app.current_org_id();
    v_actor   uuid := increment_render_counter.user_id;
    v_most    bigint;
    v_renders bigint;
begin
    if v_role <> 'spine_service' and v_actor is distinct from (case when v_role = 'spine_agent' then app.agent_id() else app.uid() end) then
        perform app.refuse('PT403', 'user_id_not_own', 'Renders are counted in one''s own name only.');
    end if;
    if v_org is null or not (app.belongs(v_actor, v_org)
                             or exists (select from public.agents a where a.org_id = v_org and a.id = v_actor)) then
        perform app.refuse('PT404', 'user_not_found', 'There is no such person or agent in this organisation.');
    end if;
    select l.max_requests into v_most from public.agent_limits l
     where l.org_id = v_org and l.agent = 'renderer' and l.scope = 'user' and l.period = 'month'
       and (l.scope_id = v_actor or l.scope_id is null)
     order by l.scope_id nulls last limit 1;
    insert into public.render_counters as c (org_id, actor_id, period_start, renders)
    select v_org, v_actor, app.render_month(v_org), 1 where coalesce(v_most, 1) >= 1
    on conflict (org_id, actor_id, period_start) do update set renders = c.renders + 1
     where c.renders < coalesce(v_most, c.renders + 1)
    returning c.renders into v_renders;
    if v_renders is null then
        perform app.refuse('PT429', 'render_limit_reached', 'The renders of this month are used up.');
    end if;
    return v_renders;
end
$$;
comment on function public.increment_render_counter(uuid) is
    'Counts a render of this month, as limits have it, and returns how many there are; refuses once the monthly limit is reached.';

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create or replace view public.usage_report with (security_invoker = true) as
select g.org_id, g.agent, g.scope, g.scope_id, g.period, g.period_start, e.period_end,
       g.used_requests, g.reserved_requests, l.max_requests, g.used_tokens, g.reserved_tokens, l.max_tokens,
       g.used_cost_micro_usd, g.reserved_cost_micro_usd, l.max_cost_micro_usd, x.percent, g.warned_at, g.reached_at,
       case when l.id is null then 'unlimited' when x.percent >= 100 then 'reached' when x.percent >= l.warn_percent then 'near' else 'ok' end as state
  from public.agent_usage g
 cross join lateral (select coalesce(g.period_end, date_add(g.period_start, ('1 ' || g.period)::interval, 'UTC')) as period_end) e
  left join lateral (
       select a.* from public.agent_limits a
        where a.org_id = g.org_id and a.agent = g.agent and a.scope = g.scope and a.period = g.period
          and (a.scope_id = g.scope_id or a.scope_id is null)
        order by a.scope_id nulls last limit 1) l on true
 cross join lateral (
       select app.limit_percent(g.used_requests + g.reserved_requests, g.used_tokens + g.reserved_tokens,
                                g.used_cost_micro_usd + g.reserved_cost_micro_usd, l.max_requests, l.max_tokens, l.max_cost_micro_usd) as percent) x
 where g.period_start <= now() and now() < e.period_end;

create trigger organizations_zone_windows after update of time_zone on public.organizations
    for each row when (new.time_zone is distinct from old.time_zone) execute function app.keep_limit_windows();

reset role;
