-- Measure a change against the size of what was before, so that a rise from below zero is no fall; and so with what is usual.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    make app.insight_trend as 20261121004220 has it.

set local role spine_owner;

create or replace function app.insight_trend(p_id text, p_noun text, p_unit text, p_points numeric[], p_rows boolean) returns jsonb
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
                    case when p_rows then sqrt(v_usual) else abs(v_usual) / 20 end) into v_spread
      from unnest(v_past) e;
    return (select coalesce(jsonb_agg(jsonb_build_object('id', p_id || '.' || f.name, 'label', f.label, 'unit', f.unit, 'value', f.value,
                                                         'text', coalesce(f.said, app.insight_text(f.value, f.unit))) order by f.place), '[]')
              from (values
                  (1, 'current', p_noun || ' in the period', p_unit, v_now, null),
                  (2, 'previous', p_noun || ' in the period before', p_unit, v_before, null),
                  (3, 'change', 'change of ' || p_noun || ' since the period before', p_unit, v_now - v_before, null),
                  (4, 'change_percent', 'change of ' || p_noun || ' since the period before', 'percent',
                   round(100 * (v_now - v_before) / nullif(abs(v_before), 0), 1), null),
                  (5, 'usual', 'usual ' || p_noun || ' in a period, the median of earlier ones', p_unit, v_usual, null),
                  (6, 'unusual', p_noun || ' beside earlier periods', 'word', case when abs(v_now - v_usual) > 3.5 * v_spread then sign(v_now - v_usual) end,
                   case when v_now > v_usual then 'unusually high' else 'unusually low' end)
              ) f (place, name, label, unit, value, said)
             where f.value is not null);
end
$$;

reset role;
