-- A million messages of a year, in the inboxes of two hundred organisations of very different size: the first has 120,000 messages in 6,000
-- threads, half have fewer than 3,600. Ten people each, the first of them an admin. The same on every run.
set session_replication_role = replica;
select setseed(0.42);

create function pg_temp.id(kind integer, a integer, b integer) returns uuid language sql immutable
    return ('0190' || lpad(to_hex(kind), 4, '0') || '-0000-7000-8000-' || lpad(to_hex(a), 6, '0') || lpad(to_hex(b), 6, '0'))::uuid;

insert into public.organizations (id, name, slug) select pg_temp.id(1, r, 0), 'Bench ' || r, 'bench-' || r from generate_series(1, 200) r;
insert into auth.users (id, email)
select pg_temp.id(2, r, k), 'p' || r || '-' || k || '@bench.example' from generate_series(1, 200) r, generate_series(1, 10) k;
insert into public.profiles (id, email) select u.id, u.email from auth.users u on conflict do nothing;
insert into public.org_members (org_id, user_id, role_id)
select pg_temp.id(1, r, 0), pg_temp.id(2, r, k), ('00000000-0000-7000-8000-00000000000' || case when k = 1 then 2 else 4 end)::uuid
  from generate_series(1, 200) r, generate_series(1, 10) k;
insert into public.social_accounts (id, org_id, platform, platform_id, username, fetch_after)
select pg_temp.id(5, r, 0), pg_temp.id(1, r, 0), 'instagram', (17841400000000000 + r)::text, 'bench', 'infinity' from generate_series(1, 200) r;

-- As they came: one every thirty seconds, for a year. A thread has twenty on average, and some have many more.
create temporary table came as
select g, r, 1 + floor(power(b, 2) * size)::integer as t, a, b, c, d, now() - (1000001 - g) * interval '30 seconds' as at
  from (select g, 1 + floor(200 * power(random(), 2.5))::integer as r, random() as a, random() as b, random() as c, random() as d
          from generate_series(1, 1000000) g) drawn
 cross join lateral (select ceil(50000 * (power(r / 200.0, 0.4) - power((r - 1) / 200.0, 0.4))) as size) s;
select count(app.ensure_social_month(m)) from (select distinct date_trunc('month', at, 'UTC') as m from came) months;

insert into public.social_messages (id, org_id, account_id, message_type, content, sender_id, received_at, platform_id, thread_id, status, direction)
select pg_temp.id(6, g, r), pg_temp.id(1, r, 0), pg_temp.id(5, r, 0), case when t % 10 < 7 then 'message' else 'comment' end,
       'What a lovely room! Is the sofa of ' || case when d < 0.001 then 'birch' else 'w' || floor(3000 * d * d) end || ' still for sale? ' || g,
       's' || t, at, 'm' || g, case when t % 10 < 7 then 'dm:s' else 'comment:c' end || t,
       case when a < 0.65 and c < 0.02 then 'new' else 'read' end, case when a < 0.65 then 'in' else 'out' end
  from came;
insert into public.social_threads (org_id, account_id, thread_id, kind, counterpart_id, counterpart_name, status, assigned_to, message_count, unread_count,
                                   last_message_at, last_incoming_at, closed_at)
select m.org_id, m.account_id, m.thread_id, split_part(replace(m.thread_id, 'dm:', 'message:'), ':', 1), min(m.sender_id), 'Person ' || min(m.sender_id),
       case when c.closed then 'closed' else 'open' end, null, count(*), count(*) filter (where m.status = 'new'), max(m.received_at),
       max(m.received_at) filter (where m.direction = 'in'), case when c.closed then now() end
  from public.social_messages m cross join lateral (select hashtext(m.org_id || m.thread_id) % 2 = 0 as closed) c
 group by m.org_id, m.account_id, m.thread_id, c.closed;

drop table came;
reset session_replication_role;
