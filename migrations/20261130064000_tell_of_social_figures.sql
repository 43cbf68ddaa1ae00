-- Let insights tell of the figures of social accounts.
--
-- Locks:   none on tables.
-- Rollout: expand.
-- Undo:    create or replace both functions as 20261121004220 has them.

set local role spine_owner;

-- As before, with social_analytics. `only`: the metric whose rows a measure sums, where a row is one figure of many kinds.
create or replace function app.insight_sources()
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
    ('social_messages', 'messages received', 'received_at', 't.deleted_at is null and t.direction = ''in''', 'social:read', null,
     '{"message_type": ["message", "comment", "mention", "reply", "story_reply", "review"],
       "status": ["new", "read", "answered", "archived"]}', '{}'),
    ('social_analytics', 'figures of social accounts', 'recorded_at', 't.media_id is null', 'social:read', null, '{}',
     '{"views": {"sum": "value", "only": "views", "unit": "count", "noun": "views of social accounts"},
       "interactions": {"sum": "value", "only": "total_interactions", "unit": "count", "noun": "interactions with social accounts"},
       "likes": {"sum": "value", "only": "likes", "unit": "count", "noun": "likes on social accounts"},
       "comments": {"sum": "value", "only": "comments", "unit": "count", "noun": "comments on social accounts"},
       "shares": {"sum": "value", "only": "shares", "unit": "count", "noun": "shares from social accounts"},
       "saves": {"sum": "value", "only": "saves", "unit": "count", "noun": "saves from social accounts"}}'),
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

-- The figures of one table over the last whole period before `p_now` and those before it: fourteen days, twelve weeks or twelve months,
-- as UTC has them. Runs as the caller: the caller's policies decide which rows count.
create or replace function app.insight_figures(p_table text, p_period text, p_now timestamptz) returns jsonb
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

    for m in select key as name, value ->> 'noun' as noun, value ->> 'sum' as summed, value ->> 'by' as apart, value ->> 'unit' as unit, value ->> 'only' as only
               from jsonb_each(v_source.measures) order by key loop
        for u in execute format(
            'with summed as (select date_trunc($5, t.%1$I, ''UTC'') as start, %2$s as unit, sum(t.%3$I)::numeric as whole, count(t.%3$I) as n
                               from %4$s group by 1, 2)
             select k.unit, array_agg(case when s.n is null then %5$s when s.n >= app.insight_least() then app.insight_units(s.whole, k.unit) end
                                      order by b.place) as points
               from (select distinct unit from summed where unit is not null) k cross join unnest($4) with ordinality b (start, place)
               left join summed s on s.start = b.start and s.unit = k.unit and s.n > 0
              group by k.unit order by k.unit',
            v_source.time_column,
            case when m.apart is null then quote_literal(m.unit) else format('case when t.%1$I ~ ''^[A-Z]{3}$'' then lower(t.%1$I) end', m.apart) end,
            m.summed, v_rows || case when m.only is null then '' else format(' and t.metric_type = %L', m.only) end,
            -- No figure of a metric is an unknown one.
            case when m.only is null then '0' else 'null' end) using v_org, v_starts[1], v_until, v_starts, p_period loop
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

reset role;
