-- Tell of the days, weeks and months of the organisation's zone in insights, and let its nights begin there.
--
-- Locks:   insight_settings exclusively, for the moment that adding a column with a constant default takes, and against writes while an
--          index of its few rows is built; organizations for the moment that making a trigger takes.
-- Rollout: expand. Every organisation is in UTC when this runs, whose insights stay as they are but for the zone that their figures name.
-- Undo:    create or replace app.insight_figures as 20261130064000 has it and the functions of the night as 20261129040400; drop
--          app.insight_zone, app.last_period, app.insight_night and the new app.missing_insights.

set local role spine_owner;

comment on column public.insight_settings.made_until is
    'The last day, in the organisation''s zone, on which nothing of the night was missing any more.';

alter table public.insight_settings add column rest_until timestamptz not null default '-infinity';
comment on column public.insight_settings.rest_until is 'When the day ends whose night was closed: nothing is looked for before.';
create index insight_settings_rest_until_idx on public.insight_settings (rest_until) where nightly;
drop index public.insight_settings_made_until_idx;
grant update (rest_until) on public.insight_settings to spine_definer;

-- Whose days a table's figures are of: the organisation's, but for what is stored by the day of another.
create function app.insight_zone(p_table text, p_zone text) returns text
    language sql immutable as $$
    -- A platform's figure of a day is one number, kept at the beginning of that day in UTC: no other day can be made of it.
    select case when p_table = 'social_analytics' then 'UTC' else p_zone end
$$;
comment on function app.insight_zone(text, text) is 'The time zone whose days the insights of a table are of, in an organisation of this one.';
grant execute on function app.insight_zone(text, text) to authenticated, spine_service, spine_definer;

-- The figures of one table over the last whole period before `p_now` and those before it: fourteen days, twelve weeks or twelve months,
-- as the organisation's zone has them. Runs as the caller: the caller's policies decide which rows count.
create or replace function app.insight_figures(p_table text, p_period text, p_now timestamptz) returns jsonb
    language plpgsql stable set search_path = '' as $$
declare
    v_org     uuid := app.current_org_id();
    v_source  record;
    v_many    integer := case p_period when 'day' then 14 else 12 end;
    v_zone    text;
    v_until   timestamptz;
    v_starts  timestamptz[];
    v_rows    text;
    v_counts  bigint[];
    v_points  numeric[];
    v_figures jsonb := '[]';
    v_series  jsonb := '[]';
    v_splits  jsonb := '[]';
    v_labels  jsonb;
    v_value   text;
    v_now     jsonb;
    v_before  jsonb;
    v_split   jsonb;
    v_id      text;
    d record;
    m record;
    u record;
begin
    select * into v_source from app.insight_sources() s where s.table_name = p_table;
    if not found or p_period not in ('day', 'week', 'month') then
        perform app.refuse('PT422', 'insight_unknown', 'There are no insights of this table, or for this period.');
    end if;
    select app.insight_zone(p_table, o.time_zone) into v_zone from public.organizations o where o.id = v_org;
    select z.period_start, s.starts, to_jsonb(s.labels) into v_until, v_starts, v_labels
      from app.zone_period(p_period, p_now, v_zone) z, app.zone_starts(p_period, z.first_day, v_many, v_zone) s;
    v_rows := format('public.%I t where t.org_id = $1 and t.%I >= $2 and t.%I < $3', p_table, v_source.time_column, v_source.time_column)
              || coalesce(' and ' || v_source.only_where, '');

    execute format('select array(select coalesce(c.n, 0) from unnest($4) with ordinality b (start, place)
                                   left join (select width_bucket(t.%I, $4) as place, count(*) as n from %s group by 1) c using (place)
                                  order by b.place)', v_source.time_column, v_rows)
       into v_counts using v_org, v_starts[1], v_until, v_starts;
    v_points := array(select case when c between 1 and app.insight_least() - 1 then null else c end
                        from unnest(v_counts) with ordinality u (c, place) order by place);
    v_figures := v_figures || app.insight_trend('total', v_source.noun, 'count', v_points, true);
    v_series := v_series || jsonb_build_object('id', 'total', 'label', v_source.noun, 'unit', 'count', 'labels', v_labels, 'points', to_jsonb(v_points));

    for d in select key as name, value as kind from jsonb_each(v_source.dimensions) order by key loop
        v_value := case
            when jsonb_typeof(d.kind) = 'array' then format('case when $4 ? t.%1$I then t.%1$I end', d.name)
            else format('case when t.%1$I ~ ''^[a-z_]{1,40}$'' then t.%1$I end', d.name)
        end;
        execute format('select (select jsonb_object_agg(part, n) from app.insight_parts(array_agg(v), array_agg(n_now))),
                               (select jsonb_object_agg(part, n) from app.insight_parts(array_agg(v), array_agg(n_before)))
                          from (select %s as v, count(*) filter (where t.%I >= $5) as n_now, count(*) filter (where t.%I < $5) as n_before
                                  from %s and $4 is not null group by 1) x', v_value, v_source.time_column, v_source.time_column, v_rows)
           into v_now, v_before using v_org, v_starts[v_many - 1], v_until, d.kind, v_starts[v_many];
        select coalesce(jsonb_agg(jsonb_build_object('value', p.part, 'current', v_now -> p.part, 'previous', v_before -> p.part)
                                  order by coalesce((v_now ->> p.part)::bigint, 0) desc, coalesce((v_before ->> p.part)::bigint, 0) desc, p.part), '[]')
          into v_split
          from (select jsonb_object_keys(v_now) union select jsonb_object_keys(v_before)) p (part);
        if v_split <> '[]' then
            v_splits := v_splits || jsonb_build_object(
                'id', d.name, 'label', v_source.noun || ' by ' || replace(d.name, '_', ' '), 'unit', 'count',
                'labels', jsonb_path_query_array(v_split, '$[*].value'), 'points', jsonb_path_query_array(v_split, '$[*].current'),
                'previous', jsonb_path_query_array(v_split, '$[*].previous'));
        end if;
        v_figures := v_figures || coalesce((
            select jsonb_agg(jsonb_build_object(
                       'id', d.name || '.' || s.part || '.' || f.name, 'unit', 'count', 'value', f.value, 'text', app.insight_text(f.value, 'count'),
                       'label', f.label || v_source.noun || case when s.part = 'rest' then ' of all other values of ' || replace(d.name, '_', ' ') || ' together'
                                                                 else ' with ' || replace(d.name, '_', ' ') || ' ' || replace(s.part, '_', ' ') end
                                || f.tail) order by s.place, f.place)
              from jsonb_array_elements(v_split) with ordinality e (item, place),
                   lateral (select e.item ->> 'value' as part, (e.item ->> 'current')::numeric as n_now, (e.item ->> 'previous')::numeric as n_before,
                                   e.place) s,
                   lateral (values (1, 'current', s.n_now, '', ' in the period'), (2, 'previous', s.n_before, '', ' in the period before'),
                                   -- The rest is not of the same values each time.
                                   (3, 'change', case when s.part <> 'rest' then s.n_now - s.n_before end, 'change of ', ' since the period before'))
                       f (place, name, value, label, tail)
             where f.value is not null), '[]');
    end loop;

    for m in select key as name, value ->> 'noun' as noun, value ->> 'sum' as summed, value ->> 'by' as apart, value ->> 'unit' as unit, value ->> 'only' as only
               from jsonb_each(v_source.measures) order by key loop
        for u in execute format(
            'with summed as (select width_bucket(t.%1$I, $4) as place, %2$s as unit, sum(t.%3$I)::numeric as whole, count(t.%3$I) as n
                               from %4$s group by 1, 2)
             select k.unit, array_agg(case when s.n is null then %5$s when s.n >= app.insight_least() then app.insight_units(s.whole, k.unit) end
                                      order by b.place) as points
               from (select distinct unit from summed where unit is not null) k cross join unnest($4) with ordinality b (start, place)
               left join summed s on s.place = b.place and s.unit = k.unit and s.n > 0
              group by k.unit order by k.unit',
            v_source.time_column,
            case when m.apart is null then quote_literal(m.unit) else format('case when t.%1$I ~ ''^[A-Z]{3}$'' then lower(t.%1$I) end', m.apart) end,
            m.summed, v_rows || case when m.only is null then '' else format(' and t.metric_type = %L', m.only) end,
            -- No figure of a metric is an unknown one.
            case when m.only is null then '0' else 'null' end) using v_org, v_starts[1], v_until, v_starts loop
            -- What was only ever small is not even named.
            continue when not exists (select from unnest(u.points) p where p <> 0);
            v_id := m.name || case when m.apart is null then '' else '.' || u.unit end;
            v_figures := v_figures || app.insight_trend(v_id, m.noun, u.unit, u.points, false);
            v_series := v_series || jsonb_build_object('id', v_id, 'label', m.noun, 'unit', u.unit, 'labels', v_labels, 'points', to_jsonb(u.points));
        end loop;
    end loop;

    return jsonb_build_object('table', p_table, 'period', p_period, 'period_start', v_starts[v_many], 'period_end', v_until,
                              'time_zone', v_zone,
                              'least', app.insight_least(), 'figures', v_figures, 'series', v_series, 'breakdowns', v_splits);
end
$$;

reset role;
set local role spine_definer;

-- When the last whole period before an instant began in a zone.
create function app.last_period(p_period text, p_at timestamptz, p_zone text) returns timestamptz
    language sql immutable set search_path = '' as $$
    select app.day_start((z.first_day - ('1 ' || p_period)::interval)::date, p_zone) from app.zone_period(p_period, p_at, p_zone) z
$$;
comment on function app.last_period(text, timestamptz, text) is 'When the last whole day, week or month before an instant began in a time zone.';

-- Insights of the periods that ended before `p_now` in this zone that are not there yet: one look into the index for each, however long
-- the history is. Like the next without settings of its own, so that it becomes a part of the statement that asks it.
create function app.missing_insights(p_org uuid, p_zone text, p_tables text[], p_periods text[], p_now timestamptz)
    returns table (table_name text, period text, whole text)
    language sql stable as $$
    select f.table_name, p.period, f.whole
      -- Offset: once for a period, not for each table.
      from (select u.period, app.last_period(u.period, p_now, p_zone) as start from unnest(p_periods) u (period) offset 0) p
      join app.insight_sources() f on f.table_name = any (p_tables)
     where (select i.id from public.ai_insights i
             where i.org_id = p_org and i.table_name = f.table_name and i.period = p.period and i.audience = f.whole
               and i.user_id is null and i.figures_digest is not null
               and i.period_start = case app.insight_zone(f.table_name, p_zone) when p_zone then p.start
                                    else app.last_period(p.period, p_now, app.insight_zone(f.table_name, p_zone)) end
             limit 1) is null
$$;

-- The organisation's day whose night has begun: today from its minute of the night on, and null before.
create function app.insight_night(p_org uuid, p_zone text, p_now timestamptz) returns date
    language sql stable as $$
    select case when extract(hour from p_now at time zone p_zone) * 60 + extract(minute from p_now at time zone p_zone)
                     >= (app.setting('insights.nightly_from') #>> '{}')::integer + app.insight_minute(p_org)
                then (p_now at time zone p_zone)::date end
$$;

-- Nightly insights that are not there yet, ids and names only. An organisation has its minute of the hour that an operator set, by its
-- id, so that they do not all come at once; each gets a share of the page. They are for everybody who sees the whole table: what one
-- person sees of it is computed when they ask.
create or replace function app.due_insights(p_now timestamptz, p_most integer)
    returns table (org_id uuid, table_name text, period text, audience text)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.table_name, d.period, d.whole
      from (select s.org_id, m.table_name, m.period, m.whole,
                   row_number() over (partition by s.org_id order by m.period, m.table_name) as place
              from public.insight_settings s
              join public.organizations o on o.id = s.org_id
             cross join lateral app.missing_insights(s.org_id, o.time_zone, s.tables, s.periods, p_now) m
             where s.nightly and s.rest_until <= p_now
               and s.made_until < app.insight_night(s.org_id, o.time_zone, p_now)) d
     order by d.place, d.org_id limit least(p_most, 1000)
$$;

-- Closes nights in which nothing is missing any more. How many.
create or replace function app.close_insight_nights(p_now timestamptz) returns integer
    language sql volatile security definer set search_path = '' as $$
    -- The zone as a value of its own: joined, all organisations would be read where many nights have begun.
    with begun as materialized (
        select n.org_id, n.zone, app.insight_night(n.org_id, n.zone, p_now) as night, n.tables, n.periods, n.made_until
          from (select s.org_id, s.tables, s.periods, s.made_until,
                       (select o.time_zone from public.organizations o where o.id = s.org_id) as zone
                  from public.insight_settings s where s.nightly and s.rest_until <= p_now offset 0) n
    ),
    closed as (
        update public.insight_settings s set made_until = b.night, rest_until = app.day_start(b.night + 1, b.zone)
          from begun b
         where s.org_id = b.org_id and b.made_until < b.night
           and not exists (select from app.missing_insights(b.org_id, b.zone, b.tables, b.periods, p_now))
        returning 1
    )
    select count(*)::integer from closed
$$;

-- What is wanted from now on is due today.
create or replace function app.reopen_insight_night() returns trigger language plpgsql set search_path = '' as $$
begin
    new.made_until := '-infinity';
    new.rest_until := '-infinity';
    return new;
end
$$;

-- In another zone the day ends at another moment.
create function app.wake_insight_night() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    update public.insight_settings s set rest_until = '-infinity' where s.org_id = new.id;
    return null;
end
$$;
comment on function app.wake_insight_night() is 'Has the night looked for by the days of an organisation''s new time zone.';
grant execute on function app.wake_insight_night() to spine_owner;

reset role;
set local role spine_owner;

create trigger organizations_zone_nights after update of time_zone on public.organizations
    for each row when (new.time_zone is distinct from old.time_zone) execute function app.wake_insight_night();

reset role;
