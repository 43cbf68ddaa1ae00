-- Declare which tables insights may be asked of, and compute their figures.
--
-- Locks:   provider_calls against writes, while an index of it is made.
-- Rollout: expand.
-- Undo:    drop the functions and the index.

set local role spine_owner;

-- By when they were made, as insights ask.
create index provider_calls_org_id_started_at_idx on public.provider_calls (org_id, started_at desc);

-- All that may be asked. `whole`: the permission with which one sees every row, by the policies of the table; what is computed with it
-- is for everybody who has it. `own`: the permission to ask about what one sees oneself; null where there is no such thing.
-- A dimension is a closed list of values, since what people write may name somebody, or "word" for what the system writes. A measure is summed,
-- apart for each currency where `by` says so.
create function app.insight_sources()
    returns table (table_name text, noun text, time_column text, only_where text, whole text, own text, dimensions jsonb, measures jsonb)
    language sql immutable set search_path = '' as $$
    values
    ('leads', 'new leads', 'created_at', null, 'leads:read_all', 'leads:update',
     '{"status": ["new", "contacted", "qualified", "proposal", "won", "lost"], "source": ["referral", "website", "event", "social", "ads"]}'::jsonb, '{}'::jsonb),
    ('submissions', 'submissions begun', 'created_at', null, 'submissions:read_all', 'submissions:create',
     '{"status": ["draft", "submitted", "changes_requested", "approved", "rejected"]}', '{}'),
    ('render_requests', 'render requests', 'created_at', null, 'renders:read_all', 'renders:create',
     '{"status": ["queued", "running", "completed", "failed", "cancelled"]}',
     '{"pictures": {"sum": "variants", "unit": "count", "noun": "pictures asked for"}}'),
    ('social_messages', 'messages received', 'received_at', 't.deleted_at is null', 'social:read', null,
     '{"message_type": ["message", "comment", "mention", "reply", "story_reply", "review"],
       "status": ["new", "read", "answered", "archived"]}', '{}'),
    ('projects', 'new projects', 'created_at', null, 'projects:read', 'renders:create',
     '{"status": ["draft", "active", "shared", "done"]}', '{}'),
    ('invoices', 'invoices', 'created_at', 't.status in (''open'', ''paid'', ''uncollectible'')', 'billing:read', null,
     '{"status": ["open", "paid", "uncollectible"]}',
     '{"amount": {"sum": "amount", "by": "currency", "noun": "amount invoiced"}}'),
    ('provider_calls', 'calls to models', 'started_at', null, 'limits:read', null,
     '{"provider": ["anthropic", "gemini"], "purpose": "word", "outcome": "word"}',
     '{"cost": {"sum": "cost_micro_usd", "unit": "usd_micro", "noun": "cost of calls to models"},
       "tokens": {"sum": "tokens", "unit": "count", "noun": "tokens used"}}')
$$;
comment on function app.insight_sources() is 'What insights may be asked of: tables, whose permission opens them, how rows are told apart and what is summed.';

-- The least number of rows that a published number may rest on.
create function app.insight_least() returns integer language sql immutable set search_path = '' return 5;
comment on function app.insight_least() is 'The least number of rows that a published number of an insight rests on.';

-- Parts of a whole, of which none is small: what has fewer rows than the least, or no value, or no place among the eight largest, is
-- `rest`; and if that would be small itself, the smallest part goes with it. So the parts and the rest are blocks that make up the whole,
-- each of at least so many rows, and whatever is added to or taken from what, the outcome is a sum of such blocks.
-- No parts where the whole itself is small, or would be all rest.
create function app.insight_parts(p_values text[], p_counts bigint[]) returns table (part text, n bigint)
    language plpgsql immutable set search_path = '' as $$
declare
    v_least integer := app.insight_least();
    v_whole bigint  := (select coalesce(sum(c), 0) from unnest(p_counts) c);
    v_rest  bigint;
    v_parts text[];
    v_sizes bigint[];
begin
    if v_whole < v_least then
        return;
    end if;
    select array_agg(x.value order by x.n desc, x.value), array_agg(x.n order by x.n desc, x.value) into v_parts, v_sizes
      from (select u.value, u.n from unnest(p_values, p_counts) u (value, n)
             where u.value is not null and u.n >= v_least order by u.n desc, u.value limit 8) x;
    v_rest := v_whole - (select coalesce(sum(s), 0) from unnest(v_sizes) s);
    if v_rest between 1 and v_least - 1 then
        v_rest := v_rest + v_sizes[cardinality(v_sizes)];
        v_parts := trim_array(v_parts, 1);
        v_sizes := trim_array(v_sizes, 1);
    end if;
    if coalesce(cardinality(v_parts), 0) = 0 then
        return;
    end if;
    return query select * from unnest(v_parts, v_sizes);
    if v_rest > 0 then
        return query select 'rest', v_rest;
    end if;
end
$$;
comment on function app.insight_parts(text[], bigint[]) is 'Splits a whole by value into parts of which none is small; `rest` is all others together.';

-- What one series says of its last period: how many, how many before, the difference, what is usual, and whether it is out of line.
-- All of it follows from the published points: what was withheld counts for nothing here.
--
-- Usual is the median of the earlier points, if there are six. Out of line is what is further from it than three and a half times
-- 1.4826 times the median distance from it (for normal data, three and a half standard deviations), where that distance is at least the
-- square root of the median of counts of rows, as chance alone would have it, and a twentieth of the median of anything else. Periods
-- before the first row are none: an organisation that has just begun has no usual yet.
create function app.insight_trend(p_id text, p_noun text, p_unit text, p_points numeric[], p_rows boolean) returns jsonb
    language plpgsql immutable set search_path = '' as $$
declare
    v_now    numeric := p_points[cardinality(p_points)];
    v_before numeric := p_points[cardinality(p_points) - 1];
    v_usual  numeric;
    v_spread numeric;
    v_known  bigint;
    v_past   numeric[];
begin
    select array_agg(x.e) filter (where x.e is not null) into v_past
      from (select u.e, bool_or(u.e is distinct from 0) over (order by u.place) as begun
              from unnest(trim_array(p_points, 1)) with ordinality u (e, place)) x where x.begun;
    select percentile_cont(0.5) within group (order by e)::numeric, count(e) into v_usual, v_known from unnest(v_past) e;
    v_usual := case when v_known >= 6 then round(v_usual, case when p_unit = 'count' then 1 else app.insight_decimals(p_unit) end) end;
    select greatest(1.4826 * percentile_cont(0.5) within group (order by abs(e - v_usual))::numeric,
                    case when p_rows then sqrt(v_usual) else v_usual / 20 end) into v_spread
      from unnest(v_past) e;
    return (select coalesce(jsonb_agg(jsonb_build_object('id', p_id || '.' || f.name, 'label', f.label, 'unit', f.unit, 'value', f.value,
                                                         'text', coalesce(f.said, app.insight_text(f.value, f.unit))) order by f.place), '[]')
              from (values
                  (1, 'current', p_noun || ' in the period', p_unit, v_now, null),
                  (2, 'previous', p_noun || ' in the period before', p_unit, v_before, null),
                  (3, 'change', 'change of ' || p_noun || ' since the period before', p_unit, v_now - v_before, null),
                  (4, 'change_percent', 'change of ' || p_noun || ' since the period before', 'percent',
                   round(100 * (v_now - v_before) / nullif(v_before, 0), 1), null),
                  (5, 'usual', 'usual ' || p_noun || ' in a period, the median of earlier ones', p_unit, v_usual, null),
                  (6, 'unusual', p_noun || ' beside earlier periods', 'word', case when abs(v_now - v_usual) > 3.5 * v_spread then sign(v_now - v_usual) end,
                   case when v_now > v_usual then 'unusually high' else 'unusually low' end)
              ) f (place, name, label, unit, value, said)
             where f.value is not null);
end
$$;
comment on function app.insight_trend(text, text, text, numeric[], boolean) is 'The figures of one series: its last point, the one before, the change, the usual, and whether it is out of line.';

-- As it is told: whole numbers with commas, a percentage with its sign, money with its currency's name.
create function app.insight_text(p_value numeric, p_unit text) returns text
    language sql immutable set search_path = '' as $$
    select case
        when p_unit = 'percent' then trim_scale(p_value)::text || '%'
        when p_unit = 'count' then rtrim(to_char(p_value, 'FM999,999,999,999,990.9'), '.')
        else to_char(p_value, case scale(p_value) when 0 then 'FM999,999,999,999,990' when 3 then 'FM999,999,999,999,990.000'
                                                  else 'FM999,999,999,999,990.00' end) || ' ' || case p_unit when 'usd_micro' then 'USD' else upper(p_unit) end
    end
$$;
comment on function app.insight_text(numeric, text) is 'A figure as people and models are told it.';

-- How many decimals Stripe counts a currency's minor units with. ISK and UGX are told with two, which they have not; MGA with none.
create function app.insight_decimals(p_unit text) returns integer
    language sql immutable set search_path = '' as $$
    select case
        when p_unit in ('bif', 'clp', 'djf', 'gnf', 'jpy', 'kmf', 'krw', 'mga', 'pyg', 'rwf', 'vnd', 'vuv', 'xaf', 'xof', 'xpf') then 0
        when p_unit in ('bhd', 'iqd', 'jod', 'kwd', 'lyd', 'omr', 'tnd') then 3
        else 2
    end
$$;
comment on function app.insight_decimals(text) is 'How many decimals a currency''s minor units stand for, as Stripe counts them.';

-- A sum in the unit people know: dollars of micro-dollars, and money of its minor units.
create function app.insight_units(p_sum numeric, p_unit text) returns numeric
    language sql immutable set search_path = '' as $$
    select case
        when p_unit = 'count' then p_sum
        when p_unit = 'usd_micro' then round(p_sum / 1000000, 2)
        else round(p_sum / power(10, app.insight_decimals(p_unit))::numeric, app.insight_decimals(p_unit))
    end
$$;
comment on function app.insight_units(numeric, text) is 'A sum in the unit people know it in.';

-- The figures of one table over the last whole period before `p_now` and those before it: fourteen days, twelve weeks or twelve months,
-- as UTC has them. Reads as whoever asks: their policies decide which rows count.
create function app.insight_figures(p_table text, p_period text, p_now timestamptz) returns jsonb
    language plpgsql stable set search_path = '' as $$
declare
    v_org     uuid := app.current_org_id();
    v_source  record;
    v_many    integer := case p_period when 'day' then 14 else 12 end;
    v_step    interval := ('1 ' || p_period)::interval;
    v_until   timestamptz := date_trunc(p_period, p_now, 'UTC');
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
    v_starts := array(select date_subtract(v_until, v_step * n, 'UTC') from generate_series(v_many, 1, -1) n);
    select jsonb_agg(to_char(s at time zone 'UTC', 'YYYY-MM-DD') order by s) into v_labels from unnest(v_starts) s;
    v_rows := format('public.%I t where t.org_id = $1 and t.%I >= $2 and t.%I < $3', p_table, v_source.time_column, v_source.time_column)
              || coalesce(' and ' || v_source.only_where, '');

    execute format('select array(select coalesce(c.n, 0) from unnest($4) with ordinality b (start, place)
                                   left join (select date_trunc($5, t.%I, ''UTC'') as start, count(*) as n from %s group by 1) c using (start)
                                  order by b.place)', v_source.time_column, v_rows)
       into v_counts using v_org, v_starts[1], v_until, v_starts, p_period;
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

    for m in select key as name, value ->> 'noun' as noun, value ->> 'sum' as summed, value ->> 'by' as apart, value ->> 'unit' as unit
               from jsonb_each(v_source.measures) order by key loop
        for u in execute format(
            'with summed as (select date_trunc($5, t.%1$I, ''UTC'') as start, %2$s as unit, sum(t.%3$I)::numeric as whole, count(t.%3$I) as n
                               from %4$s group by 1, 2)
             select k.unit, array_agg(case when s.n is null then 0 when s.n >= app.insight_least() then app.insight_units(s.whole, k.unit) end
                                      order by b.place) as points
               from (select distinct unit from summed where unit is not null) k cross join unnest($4) with ordinality b (start, place)
               left join summed s on s.start = b.start and s.unit = k.unit and s.n > 0
              group by k.unit order by k.unit',
            v_source.time_column,
            case when m.apart is null then quote_literal(m.unit) else format('case when t.%1$I ~ ''^[A-Z]{3}$'' then lower(t.%1$I) end', m.apart) end,
            m.summed, v_rows) using v_org, v_starts[1], v_until, v_starts, p_period loop
            -- What was only ever small is not even named.
            continue when not exists (select from unnest(u.points) p where p <> 0);
            v_id := m.name || case when m.apart is null then '' else '.' || u.unit end;
            v_figures := v_figures || app.insight_trend(v_id, m.noun, u.unit, u.points, false);
            v_series := v_series || jsonb_build_object('id', v_id, 'label', m.noun, 'unit', u.unit, 'labels', v_labels, 'points', to_jsonb(u.points));
        end loop;
    end loop;

    return jsonb_build_object('table', p_table, 'period', p_period, 'period_start', v_starts[v_many], 'period_end', v_until,
                              'least', app.insight_least(), 'figures', v_figures, 'series', v_series, 'breakdowns', v_splits);
end
$$;
comment on function app.insight_figures(text, text, timestamptz) is
    'Counts, trends, parts and sums of one table, as far as the asker may see its rows and none of them rests on few.';

grant execute on function app.insight_sources() to spine_definer;
grant execute on function app.insight_sources(), app.insight_least(), app.insight_parts(text[], bigint[]),
    app.insight_trend(text, text, text, numeric[], boolean), app.insight_text(numeric, text), app.insight_decimals(text), app.insight_units(numeric, text),
    app.insight_figures(text, text, timestamptz) to spine_caller, spine_service;

reset role;
set local role spine_definer;

-- Whose insights an agent reads: of tables that its role and its token open as a whole.
create function app.agent_audiences() returns text[] language sql stable security definer set search_path = '' as $$
    select coalesce(array_agg(distinct x.audience), '{}')
      from (select s.whole, s.whole from app.insight_sources() s
            -- To an agent every lead is open with another permission; and it reads what it writes.
            union values ('leads:read_all', 'leads:read'), ('insights:read_all', 'insights:create')) x (audience, wanted)
     where app.agent_may(x.wanted)
$$;
comment on function app.agent_audiences() is 'The permissions of the agent that insights are made for.';
grant execute on function app.agent_audiences() to spine_agent;

reset role;
set local role spine_owner;

alter policy ai_insights_agent_select on public.ai_insights
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('insights:read')) and user_id is null
           and audience = any ((select app.agent_audiences())::text[]));

reset role;
