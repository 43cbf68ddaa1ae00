-- Create notifications, what each person wants to hear of, and the functions that alone notify.
--
-- Locks:   profiles exclusively, for the moment that a column takes and while an index is made; data_ownership exclusively, for an insert.
-- Rollout: expand.
-- Undo:    drop the two tables, their functions and triggers, the index and the column of profiles, and make app.may_hear as it was.

set local role spine_owner;

alter table public.profiles
    add column language text,
    add constraint profiles_language_check check (language in ('en', 'sv'));
comment on column public.profiles.language is 'What a person is written to in. Without one it is English.';
grant update (language) on public.profiles to authenticated;
-- Whether somebody who is invited is known already.
create index profiles_email_idx on public.profiles (lower(email));

create table public.notifications (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    kind       text        not null,
    event      text        not null,
    subject    jsonb       not null default '{}',
    shown      boolean     not null default true,
    read_at    timestamptz,
    created_at timestamptz not null default now(),

    constraint notifications_kind_check
        check (kind in ('approval_waits', 'approval_overdue', 'approval_failed', 'connection_needs_person', 'limit_near', 'job_failed',
                        'invitation')),
    constraint notifications_event_check check (length(event) between 1 and 300),
    constraint notifications_subject_check check (jsonb_typeof(subject) = 'object' and pg_column_size(subject) <= 2000),
    -- One event notifies a person once, however often its cause repeats.
    constraint notifications_event_key unique (org_id, user_id, kind, event)
);
comment on table public.notifications is 'What a person should know of, written in the transaction that causes it. The subject holds ids and plain facts.';
comment on column public.notifications.event is 'Which event this is, so that it notifies once.';
comment on column public.notifications.shown is 'Whether the app shows it. False where the person wants a mail alone.';
create index notifications_org_id_user_id_created_at_idx on public.notifications (org_id, user_id, created_at desc);
create index notifications_user_id_created_at_idx on public.notifications (user_id, created_at desc);

create table public.notification_preferences (
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    kind       text        not null,
    in_app     boolean     not null,
    mail       boolean     not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (org_id, user_id, kind),

    constraint notification_preferences_kind_check
        check (kind in ('approval_waits', 'approval_overdue', 'approval_failed', 'connection_needs_person', 'limit_near', 'job_failed',
                        'invitation'))
);
comment on table public.notification_preferences is
    'Where a person wants to hear of a kind of event. Without a row it is as app.notification_defaults says.';
comment on column public.notification_preferences.mail is
    'Whether by mail. An invitation is mailed to the address that it is for in any case: it is how one joins.';
create index notification_preferences_user_id_idx on public.notification_preferences (user_id);

alter table public.notifications enable row level security;
alter table public.notifications force row level security;
alter table public.notification_preferences enable row level security;
alter table public.notification_preferences force row level security;

-- Nobody reads another's, not even an owner. An invitation is for somebody who does not belong to the organisation yet.
create policy notifications_select on public.notifications for select to authenticated
    using (user_id = (select app.uid()) and shown
           and case when kind = 'invitation' then true else org_id = (select app.active_org_id()) end);
create policy notifications_update on public.notifications for update to authenticated
    using (user_id = (select app.uid()) and shown
           and case when kind = 'invitation' then true else org_id = (select app.active_org_id()) end)
    with check (user_id = (select app.uid())
                and case when kind = 'invitation' then true else org_id = (select app.active_org_id()) end);
create policy notifications_definer_select on public.notifications for select to spine_definer using (true);
create policy notifications_definer_insert on public.notifications for insert to spine_definer with check (true);
grant select on public.notifications to authenticated;
grant update (read_at) on public.notifications to authenticated;
grant select, insert on public.notifications to spine_definer;

create policy notification_preferences_select on public.notification_preferences for select to authenticated
    using (org_id = (select app.active_org_id()) and user_id = (select app.uid()));
create policy notification_preferences_insert on public.notification_preferences for insert to authenticated
    with check (org_id = (select app.active_org_id()) and user_id = (select app.uid()));
create policy notification_preferences_update on public.notification_preferences for update to authenticated
    using (org_id = (select app.active_org_id()) and user_id = (select app.uid()))
    with check (org_id = (select app.active_org_id()) and user_id = (select app.uid()));
create policy notification_preferences_delete on public.notification_preferences for delete to authenticated
    using (org_id = (select app.active_org_id()) and user_id = (select app.uid()));
create policy notification_preferences_definer_select on public.notification_preferences for select to spine_definer using (true);
grant select, insert, delete on public.notification_preferences to authenticated;
grant update (in_app, mail) on public.notification_preferences to authenticated;
grant select on public.notification_preferences to spine_definer;
create trigger notification_preferences_touch before update on public.notification_preferences
    for each row execute function app.touch_updated_at();

-- That a person read one is their doing. That it came is not: its cause has an entry of its own.
call app.audit_table('notifications', 'id', 'kind,read_at', 'people', '{update}');
call app.audit_table('notification_preferences', 'org_id,user_id,kind', 'in_app,mail');

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('notifications', null, 'system'), ('notifications', 'read_at', 'human'), ('notification_preferences', null, 'human');
alter table public.data_ownership force row level security;

reset role;
set local role spine_definer;

-- Notifying ----------------------------------------------------------------------------------------------------------------

-- A job that failed is shown by itself, where it was asked for. What waits for a person, or stops the work of others, is mailed.
create function app.notification_defaults(p_kind text, out in_app boolean, out mail boolean)
    language sql immutable set search_path = '' as $$
    select true, p_kind <> 'job_failed'
$$;
comment on function app.notification_defaults(text) is 'Where one hears of a kind of event without having said so.';

-- Notifies people of one event, once each, and has it mailed to those who want that. Those who do not belong to the organisation are left
-- out. It never fails what causes it: an error is a warning in the server's log alone, and a lock is waited for a second.
create function app.notify_people(p_org uuid, p_users uuid[], p_kind text, p_subject jsonb, p_event text) returns integer
    language plpgsql volatile security definer set search_path = '' set lock_timeout = '1s' set client_min_messages = error as $$
declare
    v_made integer;
begin
    with wanted as (
        select u.id, coalesce(p.in_app, d.in_app) as in_app,
               -- The invitation itself is mailed, to the address that it is for.
               p_kind <> 'invitation' and coalesce(p.mail, d.mail) as mail
          from public.profiles u
         cross join app.notification_defaults(p_kind) d
          left join public.notification_preferences p on p.org_id = p_org and p.user_id = u.id and p.kind = p_kind
         where u.id = any (p_users) and (p_kind = 'invitation' or app.belongs(u.id, p_org))
    ), made as (
        insert into public.notifications (org_id, user_id, kind, event, subject, shown)
        select p_org, w.id, p_kind, p_event, p_subject, w.in_app from wanted w where w.in_app or w.mail order by w.id
        on conflict on constraint notifications_event_key do nothing
        returning id, user_id
    ), mailed as (
        insert into public.outbox (org_id, kind, destination, payload)
        select p_org, 'mail', m.user_id::text, jsonb_build_object('kind', p_kind, 'subject', p_subject, 'notification_id', m.id)
          from made m join wanted w on w.id = m.user_id where w.mail
    )
    select count(*) into v_made from made;
    return v_made;
exception when others then
    raise warning 'nobody was notified of % %: %', p_kind, p_event, sqlerrm;
    return 0;
end
$$;
comment on function app.notify_people(uuid, uuid[], text, jsonb, text) is
    'Notifies people of one event, in the app and by mail as each prefers. How many were. Never fails.';

create function app.notify(p_org uuid, p_user uuid, p_kind text, p_subject jsonb, p_event text) returns boolean
    language sql volatile security definer set search_path = '' as $$
    select app.notify_people(p_org, array[p_user], p_kind, p_subject, p_event) > 0
$$;
comment on function app.notify(uuid, uuid, text, jsonb, text) is 'Notifies one person of one event. False if they were before, or do not want to know.';

-- Staff and consultants who may do something, those who have been there the longest first. A client's own people are not asked.
create function app.holders(p_org uuid, p_right text) returns uuid[]
    language sql stable security definer set search_path = '' as $$
    with held as materialized (
        select m.user_id, m.role_id, m.created_at from public.org_members m where m.org_id = p_org
        union all
        select c.user_id, '00000000-0000-7000-8000-000000000005', c.created_at from public.org_consultants c where c.org_id = p_org
    ), able as (
        select r.role_id from (select distinct h.role_id from held h) r
         -- Role by role: the permissions of all organisations' own roles are in one table.
         cross join lateral (select from public.permissions p
                              where p.role_id = r.role_id and (p.org_id is null or p.org_id = p_org)
                                and p.resource in (split_part(p_right, ':', 1), '*') and p.action in (split_part(p_right, ':', 2), '*')
                              limit 1) p
    )
    select coalesce(array_agg(x.user_id), '{}')
      from (select h.user_id from held h join able a on a.role_id = h.role_id
             group by h.user_id order by min(h.created_at), h.user_id limit 200) x
$$;
comment on function app.holders(uuid, text) is 'Up to 200 people of an organisation who may do something, whether they are signed in or not.';

create function app.notify_holders(p_org uuid, p_right text, p_kind text, p_subject jsonb, p_event text, p_except uuid default null)
    returns integer language sql volatile security definer set search_path = '' as $$
    select app.notify_people(p_org, array_remove(app.holders(p_org, p_right), p_except), p_kind, p_subject, p_event)
$$;
comment on function app.notify_holders(uuid, text, text, jsonb, text, uuid) is
    'Notifies those who may do something of one event; not the one who caused it, if they are named.';

-- As before, and what one is notified of.
create or replace function app.may_hear(topic text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select coalesce(
        t.part[1] = 'org' and app.as_uuid(t.part[2]) = app.active_org_id()
        and case cardinality(t.part)
                when 3 then case t.part[3]
                                when 'leads' then app.may('leads:read_all') when 'render_requests' then app.may('renders:read_all')
                                when 'jobs' then app.may('jobs:read_all') when 'social_messages' then app.may('social:read')
                                when 'audit_log' then app.may('audit:read') end
                when 4 then t.part[3] in ('leads', 'render_requests', 'jobs', 'notifications') and app.as_uuid(t.part[4]) = app.uid()
            end, false)
      from (select string_to_array(topic, ':') as part) t
$$;

reset role;

-- Made by who migrates: on Supabase only its postgres may send. A person's notifications are broadcast to that person alone.
create function app.broadcast_notifications() returns trigger
    language plpgsql security definer set search_path = '' set lock_timeout = '100ms' set client_min_messages = error as $$
declare
    c record;
begin
    lock table only realtime.messages in row exclusive mode;
    for c in select n.org_id, n.user_id, count(*) as rows, jsonb_agg(n.id) as ids from new_rows n where n.shown group by n.org_id, n.user_id
    loop
        perform realtime.send(
            jsonb_build_object('table', tg_table_name, 'operation', tg_op, 'count', c.rows, 'ids', case when c.rows <= 100 then c.ids end),
            lower(tg_op), 'org:' || c.org_id || ':notifications:' || c.user_id, true);
    end loop;
    return null;
exception when others then
    raise warning 'nothing of % was broadcast: %', tg_table_name, sqlerrm;
    return null;
end
$$;
comment on function app.broadcast_notifications() is 'Names on each person''s private topic which notifications came or were read: ids and no contents.';
revoke execute on function app.broadcast_notifications() from public;
grant execute on function app.broadcast_notifications() to spine_owner;

set local role spine_owner;

create trigger notifications_broadcast_insert after insert on public.notifications referencing new table as new_rows
    for each statement execute function app.broadcast_notifications();
create trigger notifications_broadcast_update after update on public.notifications referencing new table as new_rows
    for each statement execute function app.broadcast_notifications();

reset role;
