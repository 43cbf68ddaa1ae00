-- A hundred thousand open leads of an organisation, two hundred that ended, and twenty people with five skills and three territories each; and
-- how people were ranked before names were folded, to compare with.
set session_replication_role = replica;
insert into public.organizations (id, name, slug) values ('01900001-0000-7000-8000-000000000001', 'Bench', 'bench');
insert into auth.users (id, email) select ('01900002-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'p' || n || '@bench.example' from generate_series(1, 20) n;
insert into public.profiles (id, email) select id, email from auth.users where email like '%@bench.example' on conflict do nothing;
insert into public.org_members (org_id, user_id, role_id)
select '01900001-0000-7000-8000-000000000001', id, '00000000-0000-7000-8000-000000000004' from public.profiles where email like '%@bench.example';
insert into public.lead_capacity (org_id, user_id, max_open, skills, territories)
select m.org_id, m.user_id, 500,
       array(select (array['Kök', 'Badrum', 'Belysning', 'Trädgård', 'Kontor', 'Hotell', 'Färgsättning'])[1 + (n + k) % 7] from generate_series(1, 5) k),
       array(select (array['Östergötland', 'Västra Götaland', 'Skåne', 'Norrbotten', 'Åland'])[1 + (n + k) % 5] from generate_series(1, 3) k)
  from (select m.*, row_number() over (order by user_id)::integer as n from public.org_members m where org_id = '01900001-0000-7000-8000-000000000001') m;
insert into public.leads (org_id, client_name, email, source, territory, wanted_skills, status, closed_at, created_at)
select '01900001-0000-7000-8000-000000000001', 'Lead ' || n, 'l@example.com', 'website',
       (array['ÖSTERGÖTLAND', 'Västra  Götaland', 'skåne', 'Norrbotten', 'åland'])[1 + n % 5], array['kök', 'Belysning'],
       case when n <= 200 then 'won' else 'new' end, case when n <= 200 then now() end, now() - n * interval '1 second'
  from generate_series(1, 100200) n;
set session_replication_role = origin;
create function app.rank_people_by_lower(p_org uuid, p_lead uuid, p_score numeric, p_load jsonb, p_not uuid[])
    returns table (user_id uuid, place integer, suits numeric, fit numeric, parts jsonb)
    language sql stable set search_path = '' as $$
    with l as (select * from public.leads x where x.org_id = p_org and x.id = p_lead),
    part as (
        select c.user_id, c.max_open, coalesce((p_load -> c.user_id::text ->> 'open')::integer, 0) as open,
               (p_load -> c.user_id::text ->> 'last')::timestamptz as last,
               c.available::integer::numeric as availability,
               (l.territory is null or c.territories = '{}'
                or exists (select from unnest(c.territories) t where lower(t) = lower(l.territory)))::integer::numeric as territory,
               case when l.wanted_skills = '{}' then 1 else
                   (select greatest(0.2, avg(exists (select from unnest(c.skills) s where lower(s) = w.skill)::integer))
                      from (select distinct lower(x) as skill from unnest(l.wanted_skills) x) w) end as skills,
               c.user_id = any (p_not) as excluded
          from l join public.lead_capacity c on c.org_id = l.org_id
    ),
    suit as (
        select p.*, r.room, case when p.excluded then 0 else round(r.room * p.skills * p.territory * p.availability, 6) end as suits
          from part p, lateral (select greatest(0, p.max_open - p.open)::numeric / greatest(1, p.max_open) as room) r
    ),
    near as (select s.*, s.suits > 0 and s.suits >= 0.9 * max(s.suits) over () as near, s.open::numeric / greatest(1, s.max_open) as load from suit s)
    select n.user_id,
           (row_number() over (order by n.near desc, case when n.near then n.load end, case when n.near then n.last end nulls first,
                                        n.suits desc, n.load, n.user_id))::integer,
           n.suits, round(coalesce(p_score, 0) / 100 * n.suits, 6),
           jsonb_build_object('room', round(n.room, 4), 'skills', round(n.skills, 4), 'territory', n.territory, 'availability', n.availability,
                              'open', n.open, 'max_open', n.max_open, 'last_assigned_at', n.last, 'had_it', n.excluded, 'suits', n.suits,
                              'fit', round(coalesce(p_score, 0) / 100 * n.suits, 6))
      from near n
$$;
