-- Let the outbox carry mail beside documents, each found by an index of its own.
--
-- Locks:   outbox exclusively, while a check is made valid, a column is added, two indexes are made and one is dropped.
-- Rollout: expand. What runs claims documents as before; nothing writes mail yet.
-- Undo:    delete the rows of kind mail, make the check, the index and app.due_outbox_orgs as they were, and drop the rest of this file.

set local role spine_owner;

alter table public.outbox
    add column dropped_at timestamptz,
    drop constraint outbox_kind_check,
    add constraint outbox_kind_check check (kind in ('document', 'queue', 'realtime', 'mail')),
    add constraint outbox_dropped_check check (dropped_at is null or (kind = 'mail' and delivered_at is null));
comment on table public.outbox is
    'What must reach MongoDB, a queue, a realtime channel or a person''s mailbox after commit. Delivery is idempotent by id.';
comment on column public.outbox.destination is
    'A document''s collection; a mail''s person, or the invitation which is mailed, by id. An address never stands here.';
comment on column public.outbox.dropped_at is 'When a mail was given up or found not to be wanted any more; last_error says why.';

-- A mail that waits for its server must not stand in the way of documents, nor the other way round.
drop index public.outbox_org_id_due_idx;
create index outbox_org_id_document_due_idx on public.outbox (org_id, next_attempt_at) where delivered_at is null and kind = 'document';
create index outbox_org_id_mail_due_idx on public.outbox (org_id, next_attempt_at)
    where delivered_at is null and dropped_at is null and kind = 'mail';
-- How many mails somebody was sent within the hour.
create index outbox_mail_sent_idx on public.outbox (destination, delivered_at) where kind = 'mail' and delivered_at is not null;
-- How many invitations an organisation had mailed within the day.
create index outbox_invitation_sent_idx on public.outbox (org_id, delivered_at)
    where kind = 'mail' and delivered_at is not null and payload ->> 'kind' = 'invitation';

reset role;
set local role spine_definer;

-- Whose oldest document has been due the longest comes first. Walks the index from organisation to organisation: `distinct` would read
-- every undelivered row.
create or replace function app.due_outbox_orgs(most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    with recursive waiting (org_id, since) as (
        (select o.org_id, o.next_attempt_at from public.outbox o
          where o.delivered_at is null and o.kind = 'document' order by o.org_id, o.next_attempt_at limit 1)
        union all
        select n.org_id, n.next_attempt_at
          from waiting w
         cross join lateral (select o.org_id, o.next_attempt_at from public.outbox o
                              where o.delivered_at is null and o.kind = 'document' and o.org_id > w.org_id
                              order by o.org_id, o.next_attempt_at limit 1) n)
    select w.org_id from waiting w where w.since <= now() order by w.since limit least(most, 1000)
$$;

create function app.due_mail_orgs(most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    with recursive waiting (org_id, since) as (
        (select o.org_id, o.next_attempt_at from public.outbox o
          where o.delivered_at is null and o.dropped_at is null and o.kind = 'mail' order by o.org_id, o.next_attempt_at limit 1)
        union all
        select n.org_id, n.next_attempt_at
          from waiting w
         cross join lateral (select o.org_id, o.next_attempt_at from public.outbox o
                              where o.delivered_at is null and o.dropped_at is null and o.kind = 'mail' and o.org_id > w.org_id
                              order by o.org_id, o.next_attempt_at limit 1) n)
    select w.org_id from waiting w where w.since <= now() order by w.since limit least(most, 1000)
$$;
comment on function app.due_mail_orgs(integer) is 'Organisations that have mail to deliver, the one whose mail has been due the longest first.';
grant execute on function app.due_mail_orgs(integer) to spine_service;

reset role;
