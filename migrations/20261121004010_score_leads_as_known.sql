-- Score leads by what was known at the time asked for, so that a score of last month can be computed today without knowing how it ended.
--
-- Locks:   none.
-- Rollout: expand; at the present time it says what it said before.
-- Undo:    create or replace app.lead_score as it was made before.

set local role spine_definer;

-- Of outcomes the latest five thousand count, of budgets those of the latest two thousand leads: what a score costs has an end.
--
-- Six factors from 0 to 1 and their weights, which sum to 100. All of it is read from the organisation's own rows. What a lead itself
-- says has no history: only notes, outcomes and other leads are read as they were.
create or replace function app.lead_score(p_org uuid, p_lead uuid, p_now timestamptz, out score numeric, out factors jsonb)
    language sql stable set search_path = '' as $$
    with l as (select * from public.leads x where x.org_id = p_org and x.id = p_lead),
    outcomes as (
        select count(*) filter (where o.status = 'won') as won, count(*) as closed,
               count(*) filter (where o.status = 'won' and o.source = l.source) as won_here,
               count(*) filter (where o.source = l.source) as closed_here
          from l cross join lateral (
               select * from public.leads x
                where x.org_id = p_org and x.status in ('won', 'lost') and x.closed_at <= p_now and x.id <> p_lead
                order by x.closed_at desc limit 5000) o
    ),
    budgets as (
        select percentile_cont(0.5) within group (order by b.budget_minor) as middle
          from l join (
               select * from public.leads x where x.org_id = p_org and x.created_at <= p_now and x.id <> p_lead
                order by x.created_at desc limit 2000) b on b.currency = l.currency
    ),
    noted as (
        select count(*) as notes
          from l join public.lead_notes n on n.org_id = l.org_id and n.lead_id = l.id and n.created_at <= p_now
    ),
    factor (name, weight, value) as (
        select f.* from l, outcomes, budgets, noted, lateral (values
            ('source', 15.0, case l.source when 'referral' then 1.0 when 'website' then 0.7 when 'event' then 0.6 when 'social' then 0.5
                                           when 'ads' then 0.4 else 0.3 end),
            ('completeness', 15.0, ((l.email is not null)::int + (l.phone is not null)::int + (l.budget_minor is not null)::int
                                    + (l.territory is not null)::int) / 4.0),
            -- Beside what others of the organisation offer in the same currency: twice the middle or more is all of it.
            ('budget', 20.0, case when l.budget_minor is null then 0.2 when coalesce(budgets.middle, 0) = 0 then 0.5
                                  else least(1.0, l.budget_minor / (2.0 * budgets.middle::numeric)) end),
            -- Halves every fortnight.
            ('recency', 15.0, power(0.5, greatest(0, extract(epoch from p_now - coalesce(
                                    case when l.last_contact_at <= p_now then l.last_contact_at end, l.created_at))) / 1209600.0)),
            ('engagement', 15.0, least(1.0, noted.notes / 5.0)),
            -- Won before, from the same source; with few of those it leans on the organisation's whole record, and that on one in two.
            ('outcomes', 20.0, (outcomes.won_here + 10.0 * (outcomes.won + 5.0) / (outcomes.closed + 10.0)) / (outcomes.closed_here + 10.0))
        ) f (name, weight, value)
    )
    select round(sum(weight * value), 2),
           jsonb_object_agg(name, jsonb_build_object('weight', weight, 'value', round(value, 4), 'points', round(weight * value, 2)))
      from factor
$$;

reset role;
