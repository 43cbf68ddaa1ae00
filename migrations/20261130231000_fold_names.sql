-- Match names as people mean them: `Östergötland`, ` östergötland ` and the same in decomposed letters are one territory.
--
-- Locks:   project_tags, blog_tags, blog_categories and lead_capacity exclusively, while duplicates are merged, indexes are built and columns are
--          added; blog_posts while posts of merged categories are moved; clients against writes while an index is rebuilt.
-- Rollout: expand. Tags and categories of one project, post or organisation that are the same but for their spelling become one, the oldest.
-- Undo:    drop the indexes, columns and functions of this file; make app.name_key as 20261130032000 and app.rank_people as 20261121004020 has
--          it. What was merged stays merged.

set local role spine_owner;

-- A collation that knows the small form of every letter. The one of a database need not: under locale C, lower() leaves Ö as it is. The builtin
-- one comes with Postgres 17 and does not change with the system's libraries; before it there is ICU, and libc where a server has not even that.
do $$
declare
    made record;
begin
    for made in values ('builtin', 'C.UTF-8'), ('icu', 'und'), ('libc', 'C.utf8'), ('libc', 'C.UTF-8') loop
        begin
            execute format('create collation app.folding (provider = %s, locale = %L)', made.column1, made.column2);
            return;
        exception when others then
            raise notice 'this server has no collation % of %', made.column2, made.column1;
        end;
    end loop;
    raise exception 'the server has no collation that knows more letters than A to Z'
        using hint = 'Use Postgres 17 or newer, or one that was built with ICU.';
end
$$;
comment on collation app.folding is 'Knows the small form of every letter, on every server.';

-- Invisible characters go, letters are composed and in their usual form and small, and blanks are one each. Two letters have more than one small
-- form, and one has a dot of its own: lower() leaves them to full case folding, which only Postgres 18 has.
create function app.fold(p_text text) returns text
    language sql immutable parallel safe
    return btrim(regexp_replace(replace(replace(replace(
        lower(normalize(translate(p_text, U&'\00ad\200b\200c\200d\2060\feff', ''), nfkc) collate app.folding),
        U&'i\0307', 'i'), 'ß', 'ss'), 'ς', 'σ'), U&'[ \0009-\000d\001c-\001f\0085\1680\2028\2029]+', ' ', 'g'));
comment on function app.fold(text) is 'A name as it is compared with others: without regard to case, blanks around and between, and how its letters are composed.';

create function app.fold_all(p_texts text[]) returns text[] language sql immutable parallel safe
    return array(select distinct f.name from unnest(p_texts) t, lateral (select app.fold(t)) f (name) where f.name <> '' order by 1);
comment on function app.fold_all(text[]) is 'Names as app.fold has them, each once, without blank ones.';

-- Customers --------------------------------------------------------------------------------------------------------------------

create or replace function app.name_key(p_name text) returns text language sql immutable parallel safe return app.fold(p_name);
comment on function app.name_key(text) is 'As app.fold. Where a client''s name was compared before that was made.';
reindex index public.clients_org_id_name_key_idx;

-- Tags and categories ------------------------------------------------------------------------------------------------------------

alter table public.project_tags no force row level security;
alter table public.blog_tags no force row level security;
alter table public.blog_categories no force row level security;
alter table public.blog_posts no force row level security;

delete from public.project_tags t
 where exists (select from public.project_tags o where o.project_id = t.project_id and o.id < t.id and app.fold(o.tag) = app.fold(t.tag));
delete from public.blog_tags t
 where exists (select from public.blog_tags o where o.post_id = t.post_id and o.id < t.id and app.fold(o.tag) = app.fold(t.tag));
update public.blog_posts p set category_id = k.kept
  from (select c.id, min(c.id::text) over (partition by c.org_id, app.fold(c.name))::uuid as kept from public.blog_categories c) k
 where k.id = p.category_id and k.kept <> k.id;
delete from public.blog_categories c
 where exists (select from public.blog_categories o where o.org_id = c.org_id and o.id < c.id and app.fold(o.name) = app.fold(c.name));

alter table public.project_tags force row level security;
alter table public.blog_tags force row level security;
alter table public.blog_categories force row level security;
alter table public.blog_posts force row level security;

create unique index project_tags_org_id_project_id_fold_key on public.project_tags (org_id, project_id, app.fold(tag));
create unique index blog_tags_org_id_post_id_fold_key on public.blog_tags (org_id, post_id, app.fold(tag));
create unique index blog_categories_org_id_fold_key on public.blog_categories (org_id, app.fold(name));

-- Skills and territories -----------------------------------------------------------------------------------------------------------

-- Computed when they are written: a lead is weighed against everybody.
alter table public.lead_capacity
    add column folded_skills      text[] not null generated always as (app.fold_all(skills)) stored,
    add column folded_territories text[] not null generated always as (app.fold_all(territories)) stored;
comment on column public.lead_capacity.folded_skills is 'Skills as they are compared with those that a lead wants.';
comment on column public.lead_capacity.folded_territories is 'Territories as they are compared with that of a lead. None: everywhere.';

-- Indexes, columns and triggers ask them as the role that writes.
grant execute on function app.fold(text), app.fold_all(text[]), app.name_key(text) to public;

reset role;
set local role spine_definer;

-- As before, by folded names.
create or replace function app.rank_people(p_org uuid, p_lead uuid, p_score numeric, p_load jsonb, p_not uuid[])
    returns table (user_id uuid, place integer, suits numeric, fit numeric, parts jsonb)
    language sql stable set search_path = '' as $$
    with l as materialized (
        select x.org_id, nullif(app.fold(x.territory), '') as territory, app.fold_all(x.wanted_skills) as wanted
          from public.leads x where x.org_id = p_org and x.id = p_lead),
    part as (
        select c.user_id, c.max_open, coalesce((p_load -> c.user_id::text ->> 'open')::integer, 0) as open,
               (p_load -> c.user_id::text ->> 'last')::timestamptz as last,
               c.available::integer::numeric as availability,
               (l.territory is null or c.folded_territories = '{}' or l.territory = any (c.folded_territories))::integer::numeric as territory,
               case when l.wanted = '{}' then 1 else
                   (select greatest(0.2, avg((w = any (c.folded_skills))::integer)) from unnest(l.wanted) w) end as skills,
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

reset role;
