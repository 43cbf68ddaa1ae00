-- Two organisations, people in every role and one agent each: what `./spine demo`, `up` and the tests start from.
--
-- Ids are fixed so that examples can name them. There are no passwords here: tokens are signed by the sandbox with a key made
-- per run. Idempotent.

insert into auth.users (id, email) values
    ('01900000-0000-7000-8000-000000000101', 'olga@atelier-nord.example'),
    ('01900000-0000-7000-8000-000000000102', 'adam@atelier-nord.example'),
    ('01900000-0000-7000-8000-000000000103', 'dora@atelier-nord.example'),
    ('01900000-0000-7000-8000-000000000104', 'sven@atelier-nord.example'),
    ('01900000-0000-7000-8000-000000000105', 'cleo@consultants.example'),
    ('01900000-0000-7000-8000-000000000106', 'uma@lakeside.example'),
    ('01900000-0000-7000-8000-000000000107', 'max@consultants.example'),
    ('01900000-0000-7000-8000-000000000201', 'oscar@brick-and-beam.example'),
    ('01900000-0000-7000-8000-000000000202', 'ada@brick-and-beam.example'),
    ('01900000-0000-7000-8000-000000000203', 'dan@brick-and-beam.example'),
    ('01900000-0000-7000-8000-000000000204', 'sara@brick-and-beam.example'),
    ('01900000-0000-7000-8000-000000000206', 'ulf@harbour.example')
on conflict (id) do nothing;

insert into public.organizations (id, name, slug) values
    ('01900000-0000-7000-8000-000000000001', 'Atelier Nord', 'atelier-nord'),
    ('01900000-0000-7000-8000-000000000002', 'Brick & Beam', 'brick-and-beam')
on conflict (id) do nothing;

insert into public.org_members (org_id, user_id, role_id) values
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000101', '00000000-0000-7000-8000-000000000001'),
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000102', '00000000-0000-7000-8000-000000000002'),
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000103', '00000000-0000-7000-8000-000000000003'),
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000104', '00000000-0000-7000-8000-000000000004'),
    ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000201', '00000000-0000-7000-8000-000000000001'),
    ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000202', '00000000-0000-7000-8000-000000000002'),
    ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000203', '00000000-0000-7000-8000-000000000003'),
    ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000204', '00000000-0000-7000-8000-000000000004')
on conflict do nothing;

-- Cleo works for both organisations; Max manages all clients of one.
insert into public.org_consultants (org_id, user_id, role) values
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000105', 'consultant'),
    ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000105', 'consultant'),
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000107', 'manager')
on conflict do nothing;

insert into public.clients (id, org_id, name) values
    ('01900000-0000-7000-8000-000000000c01', '01900000-0000-7000-8000-000000000001', 'Lakeside Living'),
    ('01900000-0000-7000-8000-000000000c02', '01900000-0000-7000-8000-000000000002', 'Harbour Hotels')
on conflict (id) do nothing;

insert into public.client_consultants (org_id, client_id, user_id) values
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000c01', '01900000-0000-7000-8000-000000000105')
on conflict do nothing;

insert into public.client_users (org_id, client_id, user_id) values
    ('01900000-0000-7000-8000-000000000001', '01900000-0000-7000-8000-000000000c01', '01900000-0000-7000-8000-000000000106'),
    ('01900000-0000-7000-8000-000000000002', '01900000-0000-7000-8000-000000000c02', '01900000-0000-7000-8000-000000000206')
on conflict do nothing;

insert into public.agents (id, org_id, name, kind, role_id) values
    ('01900000-0000-7000-8000-000000000a01', '01900000-0000-7000-8000-000000000001', 'Renata', 'renderer', '00000000-0000-7000-8000-000000000007'),
    ('01900000-0000-7000-8000-000000000a02', '01900000-0000-7000-8000-000000000002', 'Rufus', 'renderer', '00000000-0000-7000-8000-000000000007')
on conflict (id) do nothing;

insert into public.projects (id, org_id, title, category, client_id, status) values
    ('01900000-0000-7000-8000-0000000000a1', '01900000-0000-7000-8000-000000000001', 'Lakeside apartment', 'residential',
     '01900000-0000-7000-8000-000000000c01', 'shared'),
    ('01900000-0000-7000-8000-0000000000a2', '01900000-0000-7000-8000-000000000001', 'Workshop loft', 'residential', null, 'active'),
    ('01900000-0000-7000-8000-0000000000b1', '01900000-0000-7000-8000-000000000002', 'Harbour lobby', 'hospitality',
     '01900000-0000-7000-8000-000000000c02', 'active')
on conflict (id) do nothing;

-- What the sandbox's Stripe sells.
insert into public.plan_prices (stripe_price_id, plan, rank) values ('price_sandbox', 'studio', 1)
on conflict do nothing;

insert into public.agent_limits (org_id, agent, scope, period, max_requests, max_cost_micro_usd) values
    ('01900000-0000-7000-8000-000000000001', 'renderer', 'user', 'day', 200, null),
    ('01900000-0000-7000-8000-000000000001', 'renderer', 'agent', 'month', 5000, 500000000),
    ('01900000-0000-7000-8000-000000000002', 'renderer', 'user', 'day', 200, null),
    ('01900000-0000-7000-8000-000000000002', 'renderer', 'agent', 'month', 5000, 500000000)
on conflict do nothing;
