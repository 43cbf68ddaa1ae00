-- Keep one inbox of social messages and comments: threads over them, what an account can do, its posts, and how far each stream is read.
--
-- Locks:   social_accounts, social_messages, social_message_keys, social_analytics and webhook_events exclusively, for the moment that
--          a column, a constraint or an index of an empty table takes, and webhook_events while indexes of it are built; system_settings and data_ownership exclusively, for one insert.
-- Rollout: expand. Rows that exist stay as they are; a message without direction is incoming.
-- Undo:    drop the tables, columns, indexes and functions of this file, make the indexes that it drops; give social_accounts and social_analytics their constraints back.

set local role spine_owner;

-- Accounts -------------------------------------------------------------------------------------------------------------------

-- Two organisations may have connected one account: each gets what is delivered for it.
alter table public.social_accounts
    drop constraint social_accounts_platform_platform_id_key,
    drop constraint social_accounts_status_check,
    add column api          text        not null default 'instagram_login',
    add column scopes       text[]      not null default '{}',
    add column fetch_after  timestamptz not null default now(),
    add column wanted_at    timestamptz,
    add column fetched_at   timestamptz,
    add column fetch_error  text,
    add column event_at     timestamptz;
update public.social_accounts set api = 'tiktok_business' where platform = 'tiktok';
update public.social_accounts set api = 'facebook_login' where platform = 'facebook';
update public.social_accounts set status = 'needs_reconsent' where status = 'expired';
alter table public.social_accounts
    add constraint social_accounts_platform_id_key unique (org_id, platform, platform_id),
    add constraint social_accounts_status_check check (status in ('active', 'needs_reconsent', 'disconnected')),
    add constraint social_accounts_api_check check (api in ('instagram_login', 'facebook_login', 'tiktok_display', 'tiktok_business')),
    add constraint social_accounts_scopes_check check (cardinality(scopes) <= 50 and pg_column_size(scopes) <= 8192),
    add constraint social_accounts_fetch_error_check check (fetch_error ~ '^[a-z_]{1,60}$');
comment on column public.social_accounts.api is 'Which interface of the platform its token is for. Each has scopes and paths of its own.';
comment on column public.social_accounts.scopes is 'The scopes that were granted, as the platform returned them.';
comment on column public.social_accounts.status is 'needs_reconsent: the platform refuses its token until a person connects it again.';
comment on column public.social_accounts.fetch_after is 'When it is to be read again.';
comment on column public.social_accounts.wanted_at is 'When a reading was last asked for. A reading that began earlier does not serve it.';
comment on column public.social_accounts.fetch_error is 'The code of what went wrong in the last reading. Null after one that went well.';
comment on column public.social_accounts.event_at is 'When the platform last delivered something for it.';
create index social_accounts_platform_id_idx on public.social_accounts (platform_id, platform);
create index social_accounts_due_idx on public.social_accounts (fetch_after) where status = 'active';
grant select (api, scopes, fetched_at, fetch_error, event_at) on public.social_accounts to authenticated, spine_agent;
grant update (api, scopes, fetch_after, wanted_at, fetched_at, fetch_error, event_at) on public.social_accounts to spine_service;

create table public.social_capabilities (
    api        text    not null,
    capability text    not null,
    delivered  boolean not null,
    read       boolean not null,
    scopes     text[]  not null,
    regions    text[],
    note       text    not null default '',
    primary key (api, capability),
    constraint social_capabilities_api_check check (api in ('instagram_login', 'facebook_login', 'tiktok_display', 'tiktok_business')),
    constraint social_capabilities_capability_check check (capability ~ '^[a-z_]{1,40}$')
);
comment on table public.social_capabilities is 'What an account can do through an interface of its platform.';
comment on column public.social_capabilities.delivered is 'Whether the platform delivers it by webhook.';
comment on column public.social_capabilities.read is 'Whether it can be read, so that a gap can be filled.';
comment on column public.social_capabilities.scopes is 'The scopes that it needs, all of them.';
comment on column public.social_capabilities.regions is
    'The regions in which the platform offers it. Null: everywhere. Empty: in some, and the platform does not publish which.';
insert into public.social_capabilities (api, capability, delivered, read, scopes, regions, note) values
    ('instagram_login', 'messages', true, true, '{instagram_business_basic,instagram_business_manage_messages}', null, 'Reading gives the 20 newest messages of a conversation.'),
    ('instagram_login', 'comments', true, true, '{instagram_business_basic,instagram_business_manage_comments}', null, ''),
    ('instagram_login', 'mentions', true, false, '{instagram_business_basic,instagram_business_manage_comments}', null, 'They arrive among comments.'),
    ('instagram_login', 'media', false, true, '{instagram_business_basic}', null, ''),
    ('instagram_login', 'account_figures', false, true, '{instagram_business_basic,instagram_business_manage_insights}', null, 'Up to 48 hours late.'),
    ('instagram_login', 'media_figures', false, true, '{instagram_business_basic,instagram_business_manage_insights}', null, 'Up to 48 hours late.'),
    ('facebook_login', 'messages', true, false, '{instagram_basic,instagram_manage_messages,pages_manage_metadata}', null, 'Delivered only: its API is not read.'),
    ('facebook_login', 'comments', true, false, '{instagram_basic,instagram_manage_comments}', null, ''),
    ('facebook_login', 'mentions', true, false, '{instagram_basic,instagram_manage_comments}', null, ''),
    ('facebook_login', 'media', false, false, '{instagram_basic}', null, ''),
    ('facebook_login', 'account_figures', false, false, '{instagram_basic,instagram_manage_insights}', null, 'Up to 48 hours late.'),
    ('facebook_login', 'media_figures', true, false, '{instagram_basic,instagram_manage_insights}', null, 'Those of a story are delivered when it ends.'),
    ('tiktok_display', 'media', false, true, '{user.info.basic,video.list}', null, ''),
    ('tiktok_display', 'account_figures', false, true, '{user.info.stats}', null, 'Totals of now; no history.'),
    ('tiktok_display', 'media_figures', false, true, '{video.list}', null, 'Counts; no reach and no watch time.'),
    ('tiktok_business', 'messages', true, false, '{message.list.read}', '{}', 'A delivery that was missed cannot be read later.'),
    ('tiktok_business', 'comments', true, true, '{comment.list,video.list}', null, 'A delivery has no text; it is read.'),
    ('tiktok_business', 'media', false, true, '{video.list}', null, ''),
    ('tiktok_business', 'account_figures', false, true, '{user.insights}', null, ''),
    ('tiktok_business', 'media_figures', false, true, '{video.list,video.insights}', null, '');
create view public.social_account_capabilities with (security_invoker) as
select a.org_id, a.id as account_id, c.capability, c.delivered, c.read, c.note,
       case when a.status <> 'active' then a.status
            when not c.scopes <@ a.scopes then 'scope_missing'
            when c.regions is null or a.region = any (c.regions) then 'available'
            when c.regions = '{}' then 'unknown'
            else 'region_excluded' end as availability,
       array(select s from unnest(c.scopes) s where s <> all (a.scopes)) as missing_scopes
  from public.social_accounts a join public.social_capabilities c on c.api = a.api;
comment on view public.social_account_capabilities is
    'What each account can do: `available`, `unknown` where the platform offers it in regions that it does not publish, or why not.';

-- Posts and figures ----------------------------------------------------------------------------------------------------------

create table public.social_media (
    org_id         uuid        not null,
    account_id     uuid        not null,
    platform_id    text        not null,
    kind           text        not null,
    caption        text,
    permalink      text,
    published_at   timestamptz not null,
    like_count     bigint,
    comments_count bigint,
    read_count     bigint,
    comments_at    timestamptz,
    figures_at     timestamptz,
    deleted_at     timestamptz,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    primary key (org_id, account_id, platform_id),
    constraint social_media_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade,
    constraint social_media_kind_check check (kind ~ '^[a-z_]{1,40}$'),
    constraint social_media_size_check check (length(platform_id) between 1 and 500 and length(caption) <= 50000 and length(permalink) <= 2000)
);
comment on table public.social_media is 'A post of an account, as the platform last showed it.';
comment on column public.social_media.comments_count is 'How many comments the platform says that it has. Null: it does not say.';
comment on column public.social_media.read_count is 'What comments_count was when its comments were last read to their end.';
create index social_media_org_id_published_at_idx on public.social_media (org_id, account_id, published_at desc);

alter table public.social_analytics
    add column media_id text,
    drop constraint social_analytics_place_key,
    add constraint social_analytics_place_key unique nulls not distinct (org_id, account_id, metric_type, recorded_at, media_id),
    add constraint social_analytics_media_id_check check (length(media_id) between 1 and 500);
comment on table public.social_analytics is
    'A figure of an account or of one of its posts for a day of UTC, as the platform gives it. What it does not give has no row.';
comment on column public.social_analytics.media_id is 'The post. Null: the account.';
comment on column public.social_analytics.recorded_at is 'When the day began, in UTC.';
create index social_analytics_org_id_media_id_idx on public.social_analytics (org_id, account_id, media_id, recorded_at) where media_id is not null;

-- Threads --------------------------------------------------------------------------------------------------------------------

create table public.social_threads (
    id               uuid        primary key default app.uuidv7(),
    org_id           uuid        not null,
    account_id       uuid        not null,
    thread_id        text        not null,
    kind             text        not null,
    counterpart_id   text,
    counterpart_name text,
    named_at         timestamptz,
    media_id         text,
    status           text        not null default 'open',
    assigned_to      uuid,
    message_count    integer     not null default 0,
    unread_count     integer     not null default 0,
    last_message_at  timestamptz,
    last_incoming_at timestamptz,
    closed_at        timestamptz,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    constraint social_threads_place_key unique (org_id, account_id, thread_id),
    constraint social_threads_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade,
    constraint social_threads_org_id_assigned_to_fkey
        foreign key (org_id, assigned_to) references public.org_members (org_id, user_id) on delete set null (assigned_to),
    constraint social_threads_kind_check check (kind in ('message', 'comment', 'mention')),
    constraint social_threads_status_check check (status in ('open', 'waiting', 'closed')),
    constraint social_threads_counts_check check (unread_count between 0 and message_count),
    constraint social_threads_size_check
        check (length(thread_id) between 1 and 500 and length(counterpart_id) <= 500 and length(counterpart_name) <= 500 and length(media_id) <= 500)
);
comment on table public.social_threads is 'A conversation with one person, or a comment with its replies.';
comment on column public.social_threads.thread_id is 'As social_messages.thread_id: `dm:` and the person or conversation, `comment:` and the first comment, `mention:` and the post.';
comment on column public.social_threads.status is 'A closed thread opens again when something later than its closing arrives.';
comment on column public.social_threads.unread_count is 'How many incoming messages are new and not deleted. A trigger counts.';
comment on column public.social_threads.named_at is 'When the platform gave the name. An older name does not replace it.';
comment on column public.social_threads.last_incoming_at is 'When the other side last wrote: a platform''s window for answers begins then.';
create index social_threads_org_id_last_message_at_idx on public.social_threads (org_id, last_message_at desc, id desc);
create index social_threads_org_id_status_idx on public.social_threads (org_id, status, last_message_at desc, id desc);
create index social_threads_org_id_account_id_idx on public.social_threads (org_id, account_id, last_message_at desc, id desc);
create index social_threads_org_id_assigned_to_idx on public.social_threads (org_id, assigned_to, last_message_at desc, id desc);
create index social_threads_org_id_unread_idx on public.social_threads (org_id, last_message_at desc, id desc) where unread_count > 0;

-- Messages -------------------------------------------------------------------------------------------------------------------

alter table public.social_messages
    add column direction   text    not null default 'in',
    add column sender_name text,
    add column parent_id   text,
    add column media_id    text,
    add column attachments jsonb   not null default '[]',
    add column reactions   jsonb   not null default '{}',
    add column hidden      boolean not null default false,
    add column edited_at   timestamptz,
    add column seen_at     timestamptz,
    add constraint social_messages_direction_check check (direction in ('in', 'out')),
    add constraint social_messages_more_size_check
        check (length(sender_name) <= 500 and length(parent_id) <= 500 and length(media_id) <= 500
               and jsonb_typeof(attachments) = 'array' and jsonb_typeof(reactions) = 'object'
               and pg_column_size(attachments) <= 65536 and pg_column_size(reactions) <= 65536);
comment on column public.social_messages.direction is 'in: written to the account. out: written by the account.';
comment on column public.social_messages.content is 'Null where there is no text, where the platform has not shown it yet, and after a deletion there.';
comment on column public.social_messages.attachments is '[{"type", "url", "id"}]. URLs of a platform expire.';
comment on column public.social_messages.reactions is 'Who reacts with what: {"<sender_id>": "<emoji>"}.';
comment on column public.social_messages.hidden is 'Whether the comment is hidden from others at the platform.';
comment on column public.social_messages.seen_at is 'When the other side saw it, if the platform says so.';
comment on column public.social_messages.deleted_at is 'When it was deleted at the platform, or found missing there. Its text and attachments went with it.';

alter table public.social_message_keys add column facts jsonb not null default '{}', alter column message_id set default app.uuidv7(),
    alter column received_at drop not null,
    add constraint social_message_keys_facts_check check (pg_column_size(facts) <= 65536);
comment on column public.social_message_keys.facts is 'When each thing that is known of the message was so at the platform: what the order of arrival must not decide.';
comment on column public.social_message_keys.received_at is 'In which month the message is. Null while only something about it has arrived, and not the message.';
grant update (facts) on public.social_message_keys to spine_service;
grant insert (direction, sender_name, parent_id, media_id, attachments, reactions, hidden, edited_at, seen_at, deleted_at),
      update (message_type, sender_id, received_at, direction, sender_name, parent_id, media_id, attachments, reactions, hidden, edited_at, seen_at)
    on public.social_messages to spine_service;

-- Words of a message, and its organisation as one more: a search in an organisation reads what has both. Words are not stemmed, since a
-- thread may be in any language.
create function app.social_words(p_org uuid, p_text text) returns tsvector
    language sql immutable parallel safe set search_path = ''
    return array_to_tsvector(array['@' || p_org]) || to_tsvector('pg_catalog.simple', coalesce(p_text, ''));
comment on function app.social_words(uuid, text) is 'Words of a message, and its organisation as one more word.';
-- Writing a message computes what its index has.
grant execute on function app.social_words(uuid, text) to authenticated, spine_service, spine_definer;
create index social_messages_words_idx on public.social_messages using gin (app.social_words(org_id, content)) where content is not null;
create index social_messages_unread_idx on public.social_messages (org_id, thread_id, received_at)
    where direction = 'in' and status = 'new' and deleted_at is null;
create index social_messages_textless_idx on public.social_messages (org_id, account_id, received_at)
    where content is null and deleted_at is null and message_type in ('comment', 'reply');

-- Deliveries -----------------------------------------------------------------------------------------------------------------

alter table public.webhook_events add column body_digest bytea,
    add constraint webhook_events_body_digest_check check (length(body_digest) = 32);
comment on column public.webhook_events.body_digest is 'SHA-256 of the whole body that this entry was delivered in. Null where the body is raw.';
comment on column public.webhook_events.event_id is
    'The provider''s id. Meta and TikTok give none: the entry''s SHA-256 and the organisation, since an entry may be several organisations''.';
-- What only Stripe's events are looked for by is not kept of others. Nothing has looked by the second one since 20261129040100.
drop index public.webhook_events_left_idx, public.webhook_events_open_idx;
create index webhook_events_left_idx on public.webhook_events (received_at) where provider = 'stripe' and status = 'received' and org_id is not null;
create index webhook_events_social_idx on public.webhook_events (org_id, received_at)
    where provider in ('meta', 'tiktok') and status = 'received';
create index webhook_events_social_ended_idx on public.webhook_events (received_at)
    where provider in ('meta', 'tiktok') and status <> 'received';
alter policy webhook_events_definer_insert on public.webhook_events
    with check (case when provider in ('meta', 'tiktok') then org_id is not null else org_id is null end);
create policy webhook_events_definer_social_delete on public.webhook_events for delete to spine_definer
    using (provider in ('meta', 'tiktok') and status <> 'received');
grant insert (body_digest, object_id), delete on public.webhook_events to spine_definer;
grant insert (body_digest) on public.webhook_events to spine_service;

-- Pace -----------------------------------------------------------------------------------------------------------------------

create table public.social_pace (
    platform text        not null,
    scope    text        not null,
    next_at  timestamptz not null default '-infinity',
    why      text,
    primary key (platform, scope),
    constraint social_pace_platform_check check (platform in ('instagram', 'facebook', 'tiktok')),
    constraint social_pace_scope_check check (length(scope) between 1 and 500)
);
comment on table public.social_pace is 'When a platform may be called next, for the whole application (`app`) or for one account there.';

-- Access ---------------------------------------------------------------------------------------------------------------------

do $$
declare
    made text;
begin
    foreach made in array array['social_capabilities', 'social_media', 'social_threads', 'social_pace'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
    end loop;
    foreach made in array array['social_media', 'social_threads'] loop
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))', made || '_service_select', made);
        execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))', made || '_service_insert', made);
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))', made || '_service_update', made);
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''social:read'')))',
                       made || '_select', made);
        execute format('create policy %I on public.%I for select to spine_agent using (org_id = (select app.agent_org_id()) and (select app.agent_may(''social:read'')))',
                       made || '_agent_select', made);
        execute format('create trigger %I before update on public.%I for each row execute function app.touch_updated_at()', made || '_touch', made);
        execute format('grant select on public.%I to authenticated, spine_agent, spine_service', made);
    end loop;
end
$$;
create policy social_capabilities_select on public.social_capabilities for select to authenticated using ((select app.active_org_id()) is not null);
create policy social_capabilities_agent_select on public.social_capabilities for select to spine_agent using ((select app.agent_org_id()) is not null);
create policy social_capabilities_service_select on public.social_capabilities for select to spine_service using ((select app.service_org()) is not null);
grant select on public.social_capabilities, public.social_account_capabilities to authenticated, spine_agent, spine_service;

grant insert (org_id, account_id, platform_id, kind, caption, permalink, published_at, like_count, comments_count),
      update (kind, caption, permalink, published_at, like_count, comments_count, read_count, comments_at, figures_at, deleted_at)
    on public.social_media to spine_service;
grant insert (org_id, account_id, thread_id, kind, counterpart_id, counterpart_name, named_at, media_id),
      update (counterpart_id, counterpart_name, named_at, media_id), delete on public.social_threads to spine_service;
-- What nothing is in any more, since its comment proved to be a reply, goes.
create policy social_threads_service_delete on public.social_threads for delete to spine_service
    using (org_id = (select app.service_org()) and message_count = 0);
create policy social_threads_update on public.social_threads for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('social:answer')));
grant update (status, assigned_to) on public.social_threads to authenticated;
create policy social_threads_definer_select on public.social_threads for select to spine_definer using (true);
create policy social_threads_definer_update on public.social_threads for update to spine_definer using (true);
grant select, update (message_count, unread_count, last_message_at, last_incoming_at, status, closed_at) on public.social_threads to spine_definer;
grant select (org_id, account_id, thread_id, direction, received_at) on public.social_messages to spine_definer;
create policy social_pace_definer on public.social_pace for all to spine_definer using (true) with check (true);
grant select, insert, update on public.social_pace to spine_definer;
grant select (org_id, id, platform, platform_id, status, fetch_after) on public.social_accounts to spine_definer;
grant update (fetch_after, wanted_at, event_at) on public.social_accounts to spine_definer;
call app.audit_table('social_threads', 'id', 'account_id,status,assigned_to', 'people', '{update}');

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('social_threads', null, 'system'), ('social_threads', 'status', 'human'), ('social_threads', 'assigned_to', 'human'),
    ('social_media', null, 'system'), ('social_pace', null, 'system'), ('social_capabilities', null, 'system');
alter table public.data_ownership force row level security;

alter table public.system_settings no force row level security;
insert into public.system_settings (key, value, description) values
    ('social.enabled', 'true', 'false pauses the reading of social accounts, and the work on what they deliver; deliveries are stored still');
alter table public.system_settings force row level security;

-- Counting -------------------------------------------------------------------------------------------------------------------

reset role;
set local role spine_definer;

-- Adds changes to the counts of threads: [{"org_id", "account_id", "thread_id", "messages", "unread", "at", "came_at", "look"}]. `look`: a message
-- left, or has another time, so that the latest times are looked up again. Thread by thread, each by its key, in one order.
create function app.count_in_threads(p_changes jsonb) returns void
    language plpgsql volatile security definer set search_path = '' as $$
declare
    c record;
begin
    for c in select * from jsonb_to_recordset(p_changes) x (org_id uuid, account_id uuid, thread_id text, messages integer, unread integer,
                                                            at timestamptz, came_at timestamptz, look boolean)
              order by x.account_id, x.thread_id
    loop
        update public.social_threads t
           set message_count = t.message_count + c.messages,
               unread_count = t.unread_count + c.unread,
               last_message_at = case when c.look then (select max(m.received_at) from public.social_messages m
                                                         where m.org_id = c.org_id and m.account_id = c.account_id and m.thread_id = c.thread_id)
                                      else greatest(t.last_message_at, c.at) end,
               last_incoming_at = case when c.look then (select max(m.received_at) from public.social_messages m
                                                          where m.org_id = c.org_id and m.account_id = c.account_id and m.thread_id = c.thread_id
                                                            and m.direction = 'in')
                                       else greatest(t.last_incoming_at, c.came_at) end,
               status = case when t.status = 'closed' and c.came_at > t.closed_at then 'open' else t.status end
         where t.org_id = c.org_id and t.account_id = c.account_id and t.thread_id = c.thread_id;
    end loop;
end
$$;
comment on function app.count_in_threads(jsonb) is 'Adds changes of messages to the counts of their threads. For the triggers of social_messages.';

create function app.count_new_messages() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform app.count_in_threads(jsonb_agg(jsonb_build_object(
                'org_id', c.org_id, 'account_id', c.account_id, 'thread_id', c.thread_id, 'messages', c.messages, 'unread', c.unread,
                'at', c.at, 'came_at', c.came_at, 'look', false)))
       from (select n.org_id, n.account_id, n.thread_id, count(*) as messages, max(n.received_at) as at,
                    count(*) filter (where n.direction = 'in' and n.status = 'new' and n.deleted_at is null) as unread,
                    max(n.received_at) filter (where n.direction = 'in') as came_at
               from new_rows n where n.thread_id is not null group by 1, 2, 3) c
     having count(*) > 0;
    return null;
end
$$;

create function app.count_changed_messages() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform app.count_in_threads(jsonb_agg(jsonb_build_object(
                'org_id', c.org_id, 'account_id', c.account_id, 'thread_id', c.thread_id, 'messages', c.messages, 'unread', c.unread, 'look', c.look)))
       from (select x.org_id, x.account_id, x.thread_id, sum(x.messages) as messages, sum(x.unread) as unread, bool_or(x.look) as look
               from (select o.id, o.org_id, o.account_id, o.thread_id, o.received_at, o.direction, n.thread_id as new_thread_id, n.received_at as new_received_at,
                            n.direction as new_direction,
                            (o.direction = 'in' and o.status = 'new' and o.deleted_at is null)::integer as was_unread,
                            (n.direction = 'in' and n.status = 'new' and n.deleted_at is null)::integer as is_unread
                       from old_rows o join new_rows n on n.id = o.id) m
              cross join lateral (
                    values (m.org_id, m.account_id, m.thread_id, -1, -m.was_unread), (m.org_id, m.account_id, m.new_thread_id, 1, m.is_unread)
                    ) y (org_id, account_id, thread_id, messages, unread)
              cross join lateral (select y.org_id, y.account_id, y.thread_id, y.messages, y.unread,
                                         (m.thread_id, m.received_at, m.direction) is distinct from (m.new_thread_id, m.new_received_at, m.new_direction) as look) x
              where x.thread_id is not null and (x.look or m.was_unread <> m.is_unread)
              group by 1, 2, 3) c
     having count(*) > 0;
    return null;
end
$$;

create function app.count_removed_messages() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform app.count_in_threads(jsonb_agg(jsonb_build_object(
                'org_id', c.org_id, 'account_id', c.account_id, 'thread_id', c.thread_id, 'messages', c.messages, 'unread', c.unread, 'look', true)))
       from (select o.org_id, o.account_id, o.thread_id, -count(*) as messages,
                    -count(*) filter (where o.direction = 'in' and o.status = 'new' and o.deleted_at is null) as unread
               from old_rows o where o.thread_id is not null group by 1, 2, 3) c
     having count(*) > 0;
    return null;
end
$$;
create function app.notify_of_social_account() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    -- The time says which loss it is: an account that is connected again and lost again is another.
    perform app.notify_holders(new.org_id, 'integrations:manage', 'connection_needs_person',
                               jsonb_build_object('account_id', new.id, 'provider', new.platform, 'status', new.status),
                               new.id || ':' || extract(epoch from now()));
    return null;
end
$$;
comment on function app.notify_of_social_account() is 'Notifies those who manage connections that a social account must be connected again.';
-- A writer of messages locks their rows and those of their threads, in the order in which its statement finds them. An organisation's writers take
-- turns, so that two of them cannot deadlock.
create function app.lock_inbox() returns void
    language sql volatile security definer set search_path = '' as $$
    select pg_advisory_xact_lock(hashtextextended('spine inbox ' || app.current_org_id(), 0)) where app.current_org_id() is not null
$$;
comment on function app.lock_inbox() is 'Makes the inbox of the organisation this transaction''s alone to write until it ends.';
create function app.lock_inbox_first() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    perform app.lock_inbox();
    return null;
end
$$;
grant execute on function app.lock_inbox() to spine_service;
grant execute on function app.lock_inbox_first() to spine_owner;
grant execute on function app.count_new_messages(), app.count_changed_messages(), app.count_removed_messages(),
    app.notify_of_social_account() to spine_owner;
revoke execute on function app.count_in_threads(jsonb) from public;

reset role;
set local role spine_owner;

create trigger social_messages_lock before update or delete on public.social_messages
    for each statement execute function app.lock_inbox_first();
create trigger social_threads_lock before update on public.social_threads
    for each statement execute function app.lock_inbox_first();
create trigger social_accounts_notify after update of status on public.social_accounts
    for each row when (new.status = 'needs_reconsent' and old.status = 'active') execute function app.notify_of_social_account();
create function app.stamp_thread_closing() returns trigger
    language plpgsql set search_path = '' as $$
begin
    new.closed_at := case when new.status <> 'closed' then null when old.status <> 'closed' then now() else old.closed_at end;
    return new;
end
$$;
comment on function app.stamp_thread_closing() is 'Says when a thread was closed, so that what arrived before does not open it again.';
create trigger social_threads_stamp_closing before update of status on public.social_threads
    for each row execute function app.stamp_thread_closing();
create trigger social_messages_count_new after insert on public.social_messages referencing new table as new_rows
    for each statement execute function app.count_new_messages();
create trigger social_messages_count_changed after update on public.social_messages referencing old table as old_rows new table as new_rows
    for each statement execute function app.count_changed_messages();
create trigger social_messages_count_removed after delete on public.social_messages referencing old table as old_rows
    for each statement execute function app.count_removed_messages();

reset role;
