-- Find organisations with something to deliver without reading what they have: one probe of an index for each.
--
-- Locks:   none.
-- Rollout: any order; same name, arguments and rows, which now come in an order.
-- Undo:    create or replace it as 20261121000500_create_jobs.sql has it.

set local role spine_definer;

-- Whose oldest document has been due the longest comes first. Walks outbox_org_id_due_idx from organisation to organisation: `distinct`
-- would read every undelivered row, and a backlog is read again with every round of deliveries.
create or replace function app.due_outbox_orgs(most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    with recursive waiting (org_id, since) as (
        (select o.org_id, o.next_attempt_at from public.outbox o
          where o.delivered_at is null order by o.org_id, o.next_attempt_at limit 1)
        union all
        select n.org_id, n.next_attempt_at
          from waiting w
         cross join lateral (select o.org_id, o.next_attempt_at from public.outbox o
                              where o.delivered_at is null and o.org_id > w.org_id
                              order by o.org_id, o.next_attempt_at limit 1) n)
    select w.org_id from waiting w where w.since <= now() order by w.since limit least(most, 1000)
$$;

reset role;
