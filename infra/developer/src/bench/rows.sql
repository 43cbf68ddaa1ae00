-- A million rows each of six tables, over a thousand organisations of very different size: the first has 63,000, the tenth 5,000,
-- half have fewer than 550. Forty people each: an admin, twenty of sales, four designers, four consultants with five clients each, their
-- manager, and ten people of a client each. The same on every run.
set session_replication_role = replica;
select setseed(0.42);

create function pg_temp.id(kind integer, a integer, b integer) returns uuid language sql immutable
    return ('0190' || lpad(to_hex(kind), 4, '0') || '-0000-7000-8000-' || lpad(to_hex(a), 6, '0') || lpad(to_hex(b), 6, '0'))::uuid;

insert into public.organizations (id, name, slug) select pg_temp.id(1, r, 0), 'Bench ' || r, 'bench-' || r from generate_series(1, 1000) r;
insert into auth.users (id, email)
select pg_temp.id(2, r, k), 'p' || r || '-' || k || '@bench.example' from generate_series(1, 1000) r, generate_series(1, 40) k;
insert into public.profiles (id, email) select u.id, u.email from auth.users u on conflict do nothing;
insert into public.org_members (org_id, user_id, role_id)
select pg_temp.id(1, r, 0), pg_temp.id(2, r, k),
       ('00000000-0000-7000-8000-00000000000' || case when k = 1 then 2 when k <= 21 then 4 else 3 end)::uuid
  from generate_series(1, 1000) r, generate_series(1, 25) k;
insert into public.org_consultants (org_id, user_id, role)
select pg_temp.id(1, r, 0), pg_temp.id(2, r, k), case k when 30 then 'manager' else 'consultant' end
  from generate_series(1, 1000) r, generate_series(26, 30) k;
insert into public.clients (id, org_id, name)
select pg_temp.id(3, r, k), pg_temp.id(1, r, 0), 'Client ' || k from generate_series(1, 1000) r, generate_series(1, 50) k;
insert into public.client_consultants (org_id, client_id, user_id)
select pg_temp.id(1, r, 0), pg_temp.id(3, r, k), pg_temp.id(2, r, 26 + k % 4) from generate_series(1, 1000) r, generate_series(1, 20) k;
insert into public.client_users (org_id, client_id, user_id)
select pg_temp.id(1, r, 0), pg_temp.id(3, r, k), pg_temp.id(2, r, 30 + k) from generate_series(1, 1000) r, generate_series(1, 10) k;
insert into public.templates (id, org_id, name, type, content)
select pg_temp.id(4, r, 0), pg_temp.id(1, r, 0), 'Form', 'form', '{}' from generate_series(1, 1000) r;
insert into public.social_accounts (id, org_id, platform, platform_id, username)
select pg_temp.id(5, r, 0), pg_temp.id(1, r, 0), 'instagram', r::text, 'bench' from generate_series(1, 1000) r;

-- As they came: one every thirty seconds, for a year.
create temporary table came as
select g, r, pg_temp.id(1, r, 0) as org, pg_temp.id(6, g, r) as id, a, b, c, now() - (1000001 - g) * interval '30 seconds' as at
  from (select g, 1 + floor(1000 * power(random(), 2.5))::integer as r, random() as a, random() as b, random() as c
          from generate_series(1, 1000000) g) drawn;
select count(app.ensure_social_month(m)) from (select distinct date_trunc('month', at, 'UTC') as m from came) months;

insert into public.leads (id, org_id, client_name, email, source, assigned_to, status, closed_at, created_at)
select id, org, 'Lead ' || g, 'lead' || g || '@example.org', 'website', case when a < 0.9 then pg_temp.id(2, r, 2 + floor(20 * b)::integer) end,
       case when c < 0.5 then 'new' else 'won' end, case when c >= 0.5 then at end, at from came;
insert into public.projects (id, org_id, title, description, client_id, status, created_at)
select id, org, 'Project ' || g, repeat('A flat by the lake. ', 5), pg_temp.id(3, r, 1 + floor(50 * b)::integer),
       case when c < 0.2 then 'shared' when c < 0.6 then 'active' else 'done' end, at from came;
insert into public.render_requests (id, org_id, user_id, project_id, job_id, input_file_path, model, status, created_at, completed_at)
select id, org, pg_temp.id(2, r, 22 + floor(19 * b)::integer), id, id, 'project-media/' || org || '/' || g || '.jpg', 'gemini-3.1-flash-image',
       'completed', at, at from came;
insert into public.submissions (id, org_id, client_id, template_id, status, submitted_at, created_by, created_at)
select id, org, pg_temp.id(3, r, 1 + floor(50 * b)::integer), pg_temp.id(4, r, 0),
       case when c < 0.2 then 'draft' when c < 0.6 then 'submitted' else 'approved' end, case when c >= 0.2 then at end,
       pg_temp.id(2, r, 31 + floor(10 * a)::integer), at from came;
insert into public.social_messages (id, org_id, account_id, message_type, content, sender_id, received_at, platform_id)
select id, org, pg_temp.id(5, r, 0), 'comment', 'What a lovely room! ' || g, 's' || g, at, g::text from came;
-- Its stamp is made whatever the session pretends to be.
alter table public.audit_log disable trigger audit_log_stamp;
insert into public.audit_log (id, org_id, occurred_at, user_id, actor, action, resource_type, record_id, metadata, digest, xact)
select id, org, at, pg_temp.id(2, r, 1), 'user', 'leads.update', 'leads', id::text, '{"changed": ["status"]}', sha256(int4send(g)), '1' from came;
alter table public.audit_log enable always trigger audit_log_stamp;

-- A hundred thousand vectors: the first organisation has twenty thousand, the others a hundred or so. Two hundred subjects, each piece
-- of one of them and off it in two of two thousand directions: vectors without any order have no neighbours worth finding.
create temporary table subjects as
select c, (select array_agg((random() - 0.5)::real) from generate_series(1, 1536) where c > 0)::extensions.vector as v from generate_series(1, 200) c;
create temporary table directions as
select c, (select array_agg((random() * 0.6 - 0.3)::real) from generate_series(1, 1536) where c > 0)::extensions.vector as v from generate_series(1, 2000) c;
insert into public.org_brain (org_id, content_type, content_text, embedding)
select pg_temp.id(1, case when g <= 20000 then 1 else 2 + g % 800 end, 0), 'note', 'Piece ' || g,
       s.v operator(extensions.+) d.v operator(extensions.+) e.v
  from (select g, 1 + floor(200 * random())::integer as s, 1 + floor(2000 * random())::integer as d, 1 + floor(2000 * random())::integer as e
          from generate_series(1, 100000) g) drawn
  join subjects s on s.c = drawn.s join directions d on d.c = drawn.d join directions e on e.c = drawn.e;

drop table came, subjects, directions;
reset session_replication_role;
