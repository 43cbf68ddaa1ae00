-- Answer what people write: replies that a person sends or that a person approves of an agent's draft, each sent once.
--
-- Locks:   social_threads, social_capabilities, approvals and jobs exclusively, for the moment that a constraint, a column, a policy or a trigger takes;
--          permissions and data_ownership exclusively, for an insert each.
-- Rollout: expand.
-- Undo:    drop the table, triggers, functions and columns of this file; make approvals_select, approval_details, approval_to_decide and begin_accounting_write as they were.

set local role spine_owner;

-- Who may --------------------------------------------------------------------------------------------------------------------

alter table public.permissions no force row level security;
insert into public.permissions (role_id, resource, action) values ('00000000-0000-7000-8000-000000000007', 'social', 'draft');
alter table public.permissions force row level security;

-- What an account can do -----------------------------------------------------------------------------------------------------

alter table public.social_capabilities add column written boolean not null default false;
comment on column public.social_capabilities.written is 'Whether it is something that can be done through the interface.';
alter table public.social_capabilities no force row level security;
insert into public.social_capabilities (api, capability, delivered, read, written, scopes, regions, note) values
    ('instagram_login', 'answer_messages', false, false, true, '{instagram_business_basic,instagram_business_manage_messages}', null,
     'Within 24 hours of what the person last wrote.'),
    ('instagram_login', 'answer_comments', false, false, true, '{instagram_business_basic,instagram_business_manage_comments}', null, ''),
    ('instagram_login', 'answer_privately', false, false, true,
     '{instagram_business_basic,instagram_business_manage_comments,instagram_business_manage_messages}', null,
     'One message for a comment, within seven days.'),
    ('instagram_login', 'hide_comments', false, false, true, '{instagram_business_basic,instagram_business_manage_comments}', null, ''),
    ('tiktok_business', 'answer_messages', false, false, true, '{message.list.send}', '{}', 'Where the person began the conversation.'),
    ('tiktok_business', 'answer_comments', false, false, true, '{comment.list.manage}', null, '');
alter table public.social_capabilities force row level security;
create or replace view public.social_account_capabilities with (security_invoker) as
select a.org_id, a.id as account_id, c.capability, c.delivered, c.read, c.note,
       case when a.status <> 'active' then a.status
            when not c.scopes <@ a.scopes then 'scope_missing'
            when c.regions is null or a.region = any (c.regions) then 'available'
            when c.regions = '{}' then 'unknown'
            else 'region_excluded' end as availability,
       array(select s from unnest(c.scopes) s where s <> all (a.scopes)) as missing_scopes,
       c.written
  from public.social_accounts a join public.social_capabilities c on c.api = a.api;

-- Replies --------------------------------------------------------------------------------------------------------------------

alter table public.social_threads add constraint social_threads_org_id_id_key unique (org_id, id);

create table public.social_replies (
    id               uuid        primary key default app.uuidv7(),
    org_id           uuid        not null,
    account_id       uuid        not null,
    thread_id        uuid        not null,
    kind             text        not null,
    message_id       uuid,
    target_id        text        not null,
    content          text,
    status           text        not null default 'queued',
    created_by       uuid        references public.profiles (id) on delete set null,
    created_by_agent uuid,
    model            text,
    sent_at          timestamptz,
    attempts         integer     not null default 0,
    seen_ids         text[]      not null default '{}',
    platform_id      text,
    code             text,
    ended_at         timestamptz,
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),

    constraint social_replies_org_id_id_key unique (org_id, id),
    constraint social_replies_kind_check check (kind in ('message', 'comment', 'private', 'hide', 'show')),
    constraint social_replies_content_check
        check ((content is null) = (kind in ('hide', 'show')) and length(content) between 1 and 2200 and content ~ '\S'),
    constraint social_replies_size_check
        check (length(target_id) between 1 and 500 and length(platform_id) <= 500 and cardinality(seen_ids) <= 50 and length(model) <= 100),
    constraint social_replies_message_check check ((message_id is null) = (kind = 'message')),
    constraint social_replies_status_check check (status in ('draft', 'queued', 'sending', 'unknown', 'sent', 'failed', 'cancelled')),
    constraint social_replies_code_check check (code ~ '^[a-z_]{1,60}$'),
    constraint social_replies_ended_check check (status not in ('sent', 'failed', 'cancelled') or ended_at is not null),
    constraint social_replies_org_id_account_id_fkey
        foreign key (org_id, account_id) references public.social_accounts (org_id, id) on delete cascade,
    constraint social_replies_org_id_thread_id_fkey
        foreign key (org_id, thread_id) references public.social_threads (org_id, id) on delete cascade
);
comment on table public.social_replies is
    'What is to be written in a thread, or done to a comment of it: the intent, which stands before anything is sent, and what came of it.';
comment on column public.social_replies.kind is
    'message: in a conversation. comment: below the comment of the thread. private: one message to who wrote a comment. hide, show: a comment.';
comment on column public.social_replies.message_id is 'The comment that it is about.';
comment on column public.social_replies.target_id is 'Whom or what the platform is given: a person, a conversation or a comment.';
comment on column public.social_replies.status is
    'draft: an agent''s, which an approval is open for. queued, sending; unknown: it was sent and nothing came back. Then sent, failed or cancelled. An unknown one with an end will not be sent again.';
comment on column public.social_replies.sent_at is 'When it was sent last. Null: it is certain that the platform has not got it.';
comment on column public.social_replies.seen_ids is 'What stood there with the same words before it was sent: none of these is it.';
comment on column public.social_replies.platform_id is 'What the platform calls what was made.';
comment on column public.social_replies.code is 'Why it failed or was cancelled.';
create index social_replies_org_id_created_at_idx on public.social_replies (org_id, created_at desc);
create index social_replies_org_id_account_id_idx on public.social_replies (org_id, account_id);
create index social_replies_org_id_thread_id_idx on public.social_replies (org_id, thread_id, created_at desc);
create index social_replies_created_by_idx on public.social_replies (created_by);
-- What is made belongs to one reply, and one is in flight in a thread: what is found there after silence can be no other's.
create unique index social_replies_platform_id_key on public.social_replies (org_id, account_id, platform_id) where platform_id is not null;
create unique index social_replies_flight_key on public.social_replies (org_id, thread_id)
    where status in ('sending', 'unknown') and ended_at is null;
-- A comment is answered privately once.
create unique index social_replies_private_key on public.social_replies (org_id, account_id, target_id)
    where kind = 'private' and status in ('queued', 'sending', 'unknown', 'sent');

alter table public.social_replies enable row level security;
alter table public.social_replies force row level security;
create policy social_replies_service_select on public.social_replies for select to spine_service using (org_id = (select app.service_org()));
create policy social_replies_select on public.social_replies for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('social:read')));
create policy social_replies_agent_select on public.social_replies for select to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('social:read')));
create policy social_replies_definer_select on public.social_replies for select to spine_definer using (true);
create policy social_replies_definer_insert on public.social_replies for insert to spine_definer with check (true);
create policy social_replies_definer_update on public.social_replies for update to spine_definer using (true);
grant select on public.social_replies to authenticated, spine_agent, spine_service, spine_definer;
grant insert, update on public.social_replies to spine_definer;
create trigger social_replies_touch before update on public.social_replies for each row execute function app.touch_updated_at();
call app.audit_table('social_replies', 'id',
    'account_id,thread_id,kind,message_id,status,created_by,created_by_agent,model,sent_at,attempts,code,ended_at');

-- What the functions below read.
create policy social_capabilities_definer_select on public.social_capabilities for select to spine_definer using (true);
grant select on public.social_capabilities, public.social_account_capabilities to spine_definer;
grant select (api, scopes, region) on public.social_accounts to spine_definer;
grant select (id, platform_id, message_type, content, deleted_at) on public.social_messages to spine_definer;
create policy social_message_keys_definer_select on public.social_message_keys for select to spine_definer using (true);
grant select (org_id, account_id, platform_id, message_id, received_at) on public.social_message_keys to spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('social_replies', null, 'system');
alter table public.data_ownership force row level security;

alter policy approvals_select on public.approvals
    using (org_id = (select app.active_org_id())
           and case kind when 'voucher' then (select app.may('accounting:read')) or client_id = any ((select app.my_consulted_client_ids())::uuid[])
                         when 'message' then (select app.may('social:read'))
                         else false end);

-- An agent follows what becomes of its drafts.
create policy approvals_agent_select on public.approvals for select to spine_agent
    using (org_id = (select app.agent_org_id()) and kind = 'message' and proposed_by_agent = (select app.agent_id())
           and (select app.agent_may('social:draft')));
grant select on public.approvals to spine_agent;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

create or replace function app.approval_to_decide(p_id uuid) returns public.approvals
    language plpgsql volatile security definer set search_path = '' as $$
declare
    a public.approvals;
begin
    if current_setting('role') not in ('authenticated', 'spine_caller') then
        raise exception 'people decide' using errcode = 'insufficient_privilege';
    end if;
    perform app.signed_in();
    select * into a from public.approvals x where x.id = p_id and x.org_id = app.active_org_id() for update;
    -- One that does not exist, another organisation's, one of a client that is not theirs: the same answer.
    if a.id is null
       or not (app.may(app.approval_right(a.kind))
               or a.kind = 'voucher' and (app.may('accounting:read') or coalesce(a.client_id = any (app.my_consulted_client_ids()), false))
               or a.kind = 'message' and app.may('social:read')) then
        perform app.refuse('PT404', 'approval_not_found', 'There is no such approval.');
    end if;
    return a;
end
$$;

-- What is approved of a reply.
create function app.social_reply_payload(p_account uuid, p_thread uuid, p_kind text, p_target text, p_content text) returns jsonb
    language sql immutable set search_path = '' as $$
    select jsonb_build_object('account_id', p_account, 'thread_id', p_thread, 'kind', p_kind, 'target_id', p_target, 'content', p_content)
$$;
comment on function app.social_reply_payload(uuid, uuid, text, text, text) is 'What is approved of a reply: where it goes and what it says.';
grant execute on function app.social_reply_payload(uuid, uuid, text, text, text) to authenticated, spine_agent, spine_service;

-- Why a reply cannot be sent now, by its code; null if it can. What the platform allows is asked of what is known here: it may know better.
create function app.social_reply_barred(p_org uuid, p_account uuid, p_thread uuid, p_kind text, p_message uuid) returns text
    language sql stable security definer set search_path = '' set enable_seqscan = off as $$
    select case
        when a.id is null or a.status = 'disconnected' then 'account_disconnected'
        when a.status <> 'active' then 'social_reconsent'
        when t.id is null then 'thread_gone'
        when c.capability is null then 'not_offered'
        when not c.scopes <@ a.scopes then 'scope_missing'
        when c.regions is not null and c.regions <> '{}' and a.region <> all (c.regions) then 'region_excluded'
        when p_kind = 'message' and (t.kind <> 'message' or t.last_incoming_at is null) then 'not_offered'
        when p_kind = 'message' and a.api = 'instagram_login' and t.last_incoming_at <= clock_timestamp() - interval '24 hours' then 'window_closed'
        when p_kind <> 'message' and t.kind = 'message' then 'not_offered'
        when p_kind <> 'message' and (m.id is null or m.deleted_at is not null) then 'comment_gone'
        when p_kind = 'private' and m.direction <> 'in' then 'not_offered'
        when p_kind = 'private' and m.received_at <= clock_timestamp() - interval '7 days' then 'window_closed'
    end
      from (select 1) x
      left join public.social_accounts a on a.org_id = p_org and a.id = p_account
      left join public.social_threads t on t.org_id = p_org and t.id = p_thread and t.account_id = p_account
      left join public.social_capabilities c
        on c.api = a.api and c.written
       and c.capability = case p_kind when 'message' then 'answer_messages' when 'comment' then 'answer_comments'
                                      when 'private' then 'answer_privately' else 'hide_comments' end
      left join public.social_message_keys k on k.org_id = p_org and k.message_id = p_message
      left join public.social_messages m on m.org_id = p_org and m.id = p_message and m.received_at = k.received_at and m.thread_id = t.thread_id
$$;
comment on function app.social_reply_barred(uuid, uuid, uuid, text, uuid) is 'Why a reply cannot be sent now, by its code. Null if it can.';

-- Writes a reply down, after everything about it has been checked. For the functions below.
create function app.open_social_reply(p_org uuid, p_thread uuid, p_kind text, p_content text, p_message uuid, p_status text,
                                      p_user uuid, p_agent uuid, p_model text) returns public.social_replies
    language plpgsql volatile security definer set search_path = '' set enable_seqscan = off as $$
declare
    t         public.social_threads;
    a         record;
    -- As platforms keep it: what is found after silence is compared with this.
    v_content text := btrim(replace(p_content, E'\r\n', E'\n'), E' \t\n\r');
    v_target  text;
    v_message uuid := p_message;
    v_barred text;
    v_reply  public.social_replies;
begin
    select * into t from public.social_threads x where x.org_id = p_org and x.id = p_thread;
    if t.id is null then
        perform app.refuse('PT404', 'thread_not_found', 'There is no such thread.');
    end if;
    select x.platform, x.api into a from public.social_accounts x where x.org_id = p_org and x.id = t.account_id;
    if p_kind is null or p_kind not in ('message', 'comment', 'private', 'hide', 'show') then
        perform app.refuse('PT422', 'kind_unknown', 'A reply is a message, a comment or private; a comment can be hidden and shown.');
    end if;
    if (p_content is null) <> (p_kind in ('hide', 'show')) or v_content !~ '\S' or length(v_content) > 2200 then
        perform app.refuse('PT422', 'content_invalid', 'A reply has 1 to 2,200 characters; hiding and showing have no text.');
    end if;
    if a.platform = 'instagram' and p_kind in ('message', 'private') and octet_length(v_content) > 1000 then
        perform app.refuse('PT422', 'content_too_long', 'A message on Instagram has at most 1,000 bytes.');
    end if;
    if p_kind = 'message' then
        if p_message is not null then
            perform app.refuse('PT422', 'message_unexpected', 'A message answers the conversation and not one message of it.');
        end if;
        v_target := case a.platform when 'instagram' then t.counterpart_id else substr(t.thread_id, 4) end;
    else
        -- Without a wish, the comment that the thread began with.
        select k.message_id, k.platform_id into v_message, v_target from public.social_message_keys k
         where k.org_id = p_org and k.account_id = t.account_id
           and case when p_message is null or p_kind = 'comment' then k.platform_id = substr(t.thread_id, 9) else k.message_id = p_message end;
        -- What answers a reply is filed below the first comment by the platform.
        if p_kind = 'comment' and v_message <> p_message then
            perform app.refuse('PT422', 'message_unexpected', 'A comment is answered below the one that began its thread.');
        end if;
    end if;
    v_barred := app.social_reply_barred(p_org, t.account_id, t.id, p_kind, v_message);
    if v_barred is null and v_target is null then
        v_barred := 'recipient_unknown';
    end if;
    if v_barred is not null then
        perform app.refuse('PT409', v_barred, app.social_reply_reason(v_barred));
    end if;
    insert into public.social_replies (org_id, account_id, thread_id, kind, message_id, target_id, content, status, created_by, created_by_agent, model)
    values (p_org, t.account_id, t.id, p_kind, v_message, v_target, v_content, p_status, p_user, p_agent, left(p_model, 100))
    on conflict (org_id, account_id, target_id) where kind = 'private' and status in ('queued', 'sending', 'unknown', 'sent') do nothing
    returning * into v_reply;
    if v_reply.id is null then
        perform app.refuse('PT409', 'private_reply_used', app.social_reply_reason('private_reply_used'));
    end if;
    return v_reply;
end
$$;
comment on function app.open_social_reply(uuid, uuid, text, text, uuid, text, uuid, uuid, text) is 'Writes a reply down. For the functions that let somebody do so.';

-- Each code in words.
create function app.social_reply_reason(p_code text) returns text language sql immutable set search_path = '' as $$
    select case p_code
        when 'account_disconnected' then 'The account is not connected any more.'
        when 'social_reconsent' then 'The platform refuses the account''s token; a person must connect it again.'
        when 'thread_gone' then 'The thread is not there any more.'
        when 'not_offered' then 'The platform does not offer this for such an account or thread.'
        when 'scope_missing' then 'What was consented to does not cover this; connect the account again and allow it.'
        when 'region_excluded' then 'The platform does not offer this in the account''s region.'
        when 'window_closed' then 'The time in which the platform lets this be answered is over.'
        when 'comment_gone' then 'The comment is not there any more.'
        when 'recipient_unknown' then 'It is not known who wrote this.'
        when 'private_reply_used' then 'This comment was answered privately already; the platform allows that once.'
    end
$$;

-- The reply's job; the sweep sends its message if nobody else does.
create function app.queue_social_reply(p_reply public.social_replies, p_user uuid) returns uuid
    language sql volatile security definer set search_path = '' as $$
    insert into public.jobs (org_id, job_type, payload, max_attempts, unique_key, created_by)
    values (p_reply.org_id, 'social_reply', jsonb_build_object('reply_id', p_reply.id), 20, p_reply.id::text, p_user)
    returning id
$$;

create function public.answer_social_thread(thread_id uuid, kind text, content text default null, message_id uuid default null,
                                            out reply_id uuid, out job_id uuid)
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_user  uuid := app.signed_in();
    v_org   uuid := app.active_org_id();
    v_reply public.social_replies;
begin
    if v_org is null or not app.may('social:answer') then
        perform app.refuse('PT403', 'answer_not_allowed', 'Answering takes the right social:answer.');
    end if;
    v_reply := app.open_social_reply(v_org, answer_social_thread.thread_id, answer_social_thread.kind, answer_social_thread.content,
                                     answer_social_thread.message_id, 'queued', v_user, null, null);
    reply_id := v_reply.id;
    job_id := app.queue_social_reply(v_reply, v_user);
end
$$;
comment on function public.answer_social_thread(uuid, text, text, uuid) is
    'Answers in a thread as a person: `message`, `comment` or `private` with a text, or `hide` and `show` a comment. Queued, and sent once.';

create function public.draft_social_reply(thread_id uuid, kind text, content text default null, message_id uuid default null,
                                          lasts interval default '2 days', out reply_id uuid, out approval_id uuid)
    language plpgsql volatile security definer set search_path = '' as $$
begin
    if current_setting('role') <> 'spine_agent' or not app.agent_may('social:draft') then
        perform app.refuse('PT403', 'draft_not_allowed', 'Drafting takes an agent with the right social:draft.');
    end if;
    select d.reply_id, d.approval_id into reply_id, approval_id
      from app.draft_social_reply_as(app.agent_org_id(), app.agent_id(), draft_social_reply.thread_id, draft_social_reply.kind,
                                     draft_social_reply.content, draft_social_reply.message_id, null, draft_social_reply.lasts) d;
end
$$;
comment on function public.draft_social_reply(uuid, text, text, uuid, interval) is
    'Drafts a reply as an agent, for a person to approve. The reply and its approval.';

-- For an agent that the system works for.
create function app.draft_social_reply_as(p_org uuid, p_agent uuid, p_thread uuid, p_kind text, p_content text, p_message uuid, p_model text,
                                          p_lasts interval, out reply_id uuid, out approval_id uuid)
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_reply public.social_replies;
begin
    if p_org is distinct from app.current_org_id()
       or not (current_setting('role') = 'spine_agent' and p_agent = app.agent_id()
               or current_setting('role') = 'spine_service'
                  and exists (select from public.agents g join public.permissions p on p.role_id = g.role_id and (p.org_id is null or p.org_id = g.org_id)
                               where g.org_id = p_org and g.id = p_agent and g.status = 'active'
                                 and p.resource in ('social', '*') and p.action in ('draft', '*'))) then
        perform app.refuse('PT403', 'draft_not_allowed', 'Drafting takes an agent with the right social:draft.');
    end if;
    v_reply := app.open_social_reply(p_org, p_thread, p_kind, p_content, p_message, 'draft', null, p_agent, p_model);
    reply_id := v_reply.id;
    approval_id := app.open_approval(p_org, 'message', 'social_replies', v_reply.id, null,
                                     app.payload_digest(app.social_reply_payload(v_reply.account_id, v_reply.thread_id, v_reply.kind,
                                                                                 v_reply.target_id, v_reply.content)),
                                     null, p_agent, p_lasts);
end
$$;
comment on function app.draft_social_reply_as(uuid, uuid, uuid, text, text, uuid, text, interval) is 'Drafts a reply for an agent, for a person to approve.';

create function public.cancel_social_reply(id uuid) returns text
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_reply public.social_replies;
begin
    perform app.signed_in();
    if app.active_org_id() is null or not app.may('social:answer') then
        perform app.refuse('PT403', 'answer_not_allowed', 'Cancelling a reply takes the right social:answer.');
    end if;
    select * into v_reply from public.social_replies r where r.id = cancel_social_reply.id and r.org_id = app.active_org_id() for update;
    if v_reply.id is null then
        perform app.refuse('PT404', 'reply_not_found', 'There is no such reply.');
    end if;
    if v_reply.status = 'cancelled' then
        return v_reply.status;
    end if;
    -- An agent's draft is refused, as every approval is.
    if v_reply.status <> 'queued' or v_reply.created_by_agent is not null then
        perform app.refuse('PT409', 'reply_not_open', format('This reply is %s and cannot be cancelled.', v_reply.status));
    end if;
    update public.social_replies r set status = 'cancelled', code = 'cancelled', ended_at = clock_timestamp() where r.id = v_reply.id;
    return 'cancelled';
end
$$;
comment on function public.cancel_social_reply(uuid) is 'Cancels a reply of a person that has not been sent.';

-- Deciding about a draft -------------------------------------------------------------------------------------------------------

create function app.follow_message_approval() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_reply public.social_replies;
begin
    if new.status = 'approved' then
        begin
            update public.social_replies r set status = 'queued'
             where r.org_id = new.org_id and r.id = new.subject_id and r.status = 'draft' returning * into v_reply;
            if found then
                perform app.queue_social_reply(v_reply, new.decided_by);
            end if;
        exception when unique_violation then
            perform app.refuse('PT409', 'private_reply_used', app.social_reply_reason('private_reply_used'));
        end;
    else
        update public.social_replies r set status = 'cancelled', code = new.status, ended_at = clock_timestamp()
         where r.org_id = new.org_id and r.id = new.subject_id and r.status in ('draft', 'queued');
    end if;
    return null;
end
$$;
comment on function app.follow_message_approval() is 'Queues a draft that was approved, and cancels one that was refused or has expired.';
grant execute on function app.follow_message_approval() to spine_owner;

-- Sending ----------------------------------------------------------------------------------------------------------------------

-- Takes an approval to execute it, or one whose execution has begun once more, if that still may be done: why not, by its code. Every condition is
-- in the statement that takes it, as it is at that moment. The caller holds what it is about.
create function app.claim_approval(p_id uuid, p_kind text, p_digest bytea, p_again boolean) returns text
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_from    text[] := case when p_again then array['executing', 'unknown'] else array['approved', 'overdue'] end;
    v_refused text;
begin
    update public.approvals a
       set status = 'executing', began_at = coalesce(a.began_at, clock_timestamp())
     where a.id = p_id and a.org_id = app.service_org() and a.kind = p_kind and a.status = any (v_from) and a.expires_at > clock_timestamp()
       and a.payload_digest = p_digest and app.person_may(a.org_id, a.decided_by, app.approval_right(p_kind))
       and a.policy_version = coalesce((select s.policy_version from public.approval_settings s where s.org_id = a.org_id), 0);
    if found then
        return null;
    end if;
    select case when a.status <> all (v_from) then 'not_approved'
                when a.expires_at <= clock_timestamp() then 'approval_expired'
                when a.payload_digest <> p_digest then 'payload_changed'
                when not coalesce(app.person_may(a.org_id, a.decided_by, app.approval_right(p_kind)), false) then 'right_revoked'
                else 'policy_changed' end
      into v_refused from public.approvals a where a.id = p_id and a.org_id = app.service_org() and a.kind = p_kind;
    return coalesce(v_refused, 'not_approved');
end
$$;
comment on function app.claim_approval(uuid, text, bytea, boolean) is 'Takes an approval to execute it, if that still may be done. Why not, by its code.';

-- Writes down that a reply is being sent, if it still may be; then it may be sent once. `p_searched_at`: it was sent at that time, and the platform
-- has not got it; of two that have searched, one sends. `refused` says why not: not_open; thread_busy, while another is in flight in the thread; or what stands in its way.
create function app.begin_social_reply(p_id uuid, p_searched_at timestamptz, p_seen text[], out refused text, out approval_id uuid, out sent_at timestamptz,
                                       out attempts integer)
    language plpgsql volatile security definer set search_path = '' set enable_seqscan = off as $$
#variable_conflict use_column
declare
    v_org uuid := app.service_org();
    r     public.social_replies;
    v_was text;
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system sends, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    -- The approval before the reply, as those lock them who decide.
    select a.id, a.status into approval_id, v_was from public.approvals a
     where a.org_id = v_org and a.subject_id = p_id and a.subject_table = 'social_replies' order by a.created_at desc limit 1 for update;
    select * into r from public.social_replies x where x.id = p_id and x.org_id = v_org for update;
    if r.id is null or r.ended_at is not null or r.sent_at is distinct from p_searched_at
       or r.status <> all (case when p_searched_at is null then array['queued'] else array['sending', 'unknown'] end)
       or r.created_by_agent is not null and approval_id is null then
        refused := 'not_open';
        return;
    end if;
    refused := app.social_reply_barred(v_org, r.account_id, r.thread_id, r.kind, r.message_id);
    if refused is null and r.created_by_agent is null and not coalesce(app.person_may(v_org, r.created_by, 'social:answer'), false) then
        refused := 'right_revoked';
    end if;
    if refused is not null then
        return;
    end if;
    begin
        update public.social_replies x
           set status = 'sending', sent_at = clock_timestamp(), attempts = x.attempts + 1, seen_ids = p_seen
         where x.id = p_id returning x.sent_at, x.attempts into sent_at, attempts;
        if approval_id is not null then
            refused := app.claim_approval(approval_id, 'message',
                                          app.payload_digest(app.social_reply_payload(r.account_id, r.thread_id, r.kind, r.target_id, r.content)),
                                          v_was in ('executing', 'unknown'));
            if refused is not null then
                -- Nothing of this stands.
                raise exception using errcode = 'PT409', message = refused;
            end if;
        end if;
    exception
        when unique_violation then refused := 'thread_busy';
        when sqlstate 'PT409' then null;
    end;
end
$$;
comment on function app.begin_social_reply(uuid, timestamptz, text[]) is 'Writes down that a reply is being sent, if it still may be: then it may be sent once.';

-- Says what came of a reply: `sent`, with what the platform calls it; `failed`, with why; `unknown`, if the platform did not answer; `lost`, if it will
-- not be known; `unsent`, if it is certain that the platform has not got it. False if it has ended.
create function app.end_social_reply(p_id uuid, p_outcome text, p_platform_id text, p_code text) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org      uuid := app.service_org();
    v_approval public.approvals;
    r          public.social_replies;
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system sends, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    select * into v_approval from public.approvals a
     where a.org_id = v_org and a.subject_id = p_id and a.subject_table = 'social_replies' order by a.created_at desc limit 1 for update;
    select * into r from public.social_replies x where x.id = p_id and x.org_id = v_org for update;
    if r.id is null or r.ended_at is not null or r.status = 'draft' then
        return false;
    end if;
    -- Barred before it was begun: it ends as what was begun and failed.
    if p_outcome = 'failed' and v_approval.status in ('approved', 'overdue') then
        update public.approvals a set status = 'executing', began_at = clock_timestamp() where a.id = v_approval.id;
    end if;
    if p_outcome = 'unsent' then
        -- One that was sent before may appear yet: it is searched for again.
        update public.social_replies x
           set status = case when x.attempts = 1 then 'queued' else 'unknown' end, sent_at = case when x.attempts = 1 then null else x.sent_at end,
               attempts = case when x.attempts = 1 then 0 else x.attempts end
         where x.id = p_id;
        -- An approval does not go back: what it has begun is begun again.
        return true;
    end if;
    update public.social_replies x
       set status = case p_outcome when 'sent' then 'sent' when 'failed' then 'failed' else 'unknown' end,
           platform_id = case when p_outcome = 'sent' then p_platform_id else x.platform_id end,
           code = case when p_outcome in ('failed', 'lost') then left(p_code, 60) end,
           ended_at = case when p_outcome <> 'unknown' then clock_timestamp() end
     where x.id = p_id;
    if v_approval.id is not null then
        perform app.end_execution(v_approval.id, case p_outcome when 'sent' then 'executed' when 'unknown' then 'unknown' else 'failed' end,
                                  left(case when p_outcome = 'sent' then p_platform_id else p_code end, 200));
    end if;
    return true;
end
$$;
comment on function app.end_social_reply(uuid, text, text, text) is 'Says what came of a reply. False if it has ended.';

-- As before; and of two workers that have searched for a voucher, one sends it.
create or replace function app.begin_accounting_write(p_id uuid, p_next_number bigint, p_searched boolean, out payload jsonb, out token text, out refused text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    e public.accounting_executions;
    t record;
begin
    select * into e from public.accounting_executions x where x.approval_id = p_id and x.org_id = app.service_org() for update;
    if e.ended_at is not null or e.sent_at is not null and not p_searched
       -- Another has searched as well, and sends it.
       or p_searched and e.sent_at > clock_timestamp() - interval '1 minute' then
        refused := 'not_approved';
        return;
    end if;
    if e.approval_id is null then
        -- First its place in the series: what is in flight there may be waited for, so that the approval stays as it is.
        insert into public.accounting_executions (approval_id, org_id, client_id, external_tenant_id, series, year_id, voucher_date, token, next_number, sent_at, attempts)
        select a.id, a.org_id, w.client_id, w.external_tenant_id, w.payload ->> 'series', (w.payload ->> 'year_id')::bigint,
               (w.payload ->> 'date')::date, w.token, p_next_number, clock_timestamp(), 1
          from public.approvals a join public.accounting_writes w on w.org_id = a.org_id and w.id = a.subject_id
         where a.id = p_id and a.org_id = app.service_org() and a.status in ('approved', 'overdue')
        on conflict (org_id, external_tenant_id, series) where ended_at is null do nothing;
        if not found and exists (select from public.approvals a where a.id = p_id and a.org_id = app.service_org() and a.status in ('approved', 'overdue')) then
            refused := 'series_busy';
            return;
        end if;
    end if;
    select * into t from app.take_approval(p_id, e.approval_id is not null);
    refused := t.refused;
    if refused is not null then
        if e.approval_id is null then
            delete from public.accounting_executions x where x.approval_id = p_id and x.org_id = app.service_org();
        end if;
        return;
    end if;
    if e.approval_id is not null then
        update public.accounting_executions x set sent_at = clock_timestamp(), next_number = p_next_number, attempts = x.attempts + 1
         where x.approval_id = p_id;
    end if;
    payload := t.payload;
    token := (select x.token from public.accounting_executions x where x.approval_id = p_id);
end
$$;

-- A reply whose job was cancelled or has failed is not sent any more, and keeps no other of its thread waiting.
create function app.follow_reply_job() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_id       uuid := app.as_uuid(new.payload ->> 'reply_id');
    v_approval public.approvals;
    r          public.social_replies;
begin
    select * into v_approval from public.approvals a
     where a.org_id = new.org_id and a.subject_id = v_id and a.subject_table = 'social_replies' order by a.created_at desc limit 1 for update;
    select * into r from public.social_replies x where x.id = v_id and x.org_id = new.org_id for update;
    if r.id is null or r.ended_at is not null or r.status = 'draft'
       or exists (select from public.jobs j where j.org_id = new.org_id and j.job_type = 'social_reply' and j.unique_key = v_id::text
                                              and j.id <> new.id and j.status in ('queued', 'running')) then
        return null;
    end if;
    update public.social_replies x
       set status = case when x.sent_at is not null then 'unknown' else new.status end, code = 'job_' || new.status, ended_at = clock_timestamp()
     where x.id = v_id;
    if v_approval.status in ('approved', 'overdue') then
        update public.approvals a set status = 'executing', began_at = clock_timestamp() where a.id = v_approval.id;
    end if;
    update public.approvals a set status = 'failed', execution = 'job_' || new.status, ended_at = clock_timestamp()
     where a.id = v_approval.id and a.status in ('executing', 'unknown');
    return null;
end
$$;
comment on function app.follow_reply_job() is 'Ends a reply whose job was cancelled or has failed.';
grant execute on function app.follow_reply_job() to spine_owner;

grant execute on function public.answer_social_thread(uuid, text, text, uuid), public.cancel_social_reply(uuid) to authenticated, spine_caller;
grant execute on function public.draft_social_reply(uuid, text, text, uuid, interval) to spine_agent;
grant execute on function app.draft_social_reply_as(uuid, uuid, uuid, text, text, uuid, text, interval),
    app.begin_social_reply(uuid, timestamptz, text[]), app.end_social_reply(uuid, text, text, text) to spine_service;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

-- Under the policies of its tables.
create or replace view public.approval_details with (security_invoker = true) as
select a.id, a.org_id, a.kind, a.client_id, a.status, encode(a.payload_digest, 'hex') as digest, a.proposed_by, a.proposed_by_agent, a.decided_by,
       a.decided_at, a.reason, a.first_step_at, a.expires_at, a.overdue_at, a.created_at,
       coalesce(w.payload, case when r.id is not null then app.social_reply_payload(r.account_id, r.thread_id, r.kind, r.target_id, r.content) end) as payload,
       w.source_key, w.submission_id, w.external_tenant_id as company, w.token,
       coalesce(e.sent_at, r.sent_at) as sent_at, e.series, e.year_id, e.voucher_number, coalesce(e.refusal_code, r.code) as refusal_code, e.refusal_message,
       r.thread_id, r.platform_id as social_message_id
  from public.approvals a
  left join public.accounting_writes w on a.subject_table = 'accounting_writes' and w.org_id = a.org_id and w.id = a.subject_id
  left join public.accounting_executions e on e.org_id = a.org_id and e.approval_id = a.id
  left join public.social_replies r on a.subject_table = 'social_replies' and r.org_id = a.org_id and r.id = a.subject_id;

create trigger jobs_reply after update of status on public.jobs
    for each row when (new.job_type = 'social_reply' and new.status in ('cancelled', 'failed') and old.status <> new.status)
    execute function app.follow_reply_job();
create trigger approvals_message after update on public.approvals
    for each row when (new.kind = 'message' and new.status <> old.status and new.status in ('approved', 'refused', 'expired'))
    execute function app.follow_message_approval();

reset role;
