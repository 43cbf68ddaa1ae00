-- Mail invitations, and hand out what is to be mailed with the address it goes to.
--
-- Locks:   invitations exclusively, for the moment that a column and a trigger take; outbox for the moment that a policy takes.
-- Rollout: expand. Invitations that were made before are not mailed; their tokens stay valid.
-- Undo:    make app.accept_invitation as 20261121001100 has it; drop the trigger, the functions, the policy and the column.

set local role spine_owner;

-- The link in a mail carries a token of its own. It is made when the mail is sent and returned to the sender alone: neither the outbox
-- nor a backup ever holds it, however long a mail waits for its server. Each attempt makes another, and all of them are valid, because
-- a mail whose attempt failed may have arrived all the same.
alter table public.invitations
    add column mail_token_hashes bytea[] not null default '{}',
    add constraint invitations_mail_token_hashes_check check (cardinality(mail_token_hashes) <= 50);
comment on column public.invitations.mail_token_hashes is 'SHA-256 of the tokens that were mailed, one for each attempt, the last fifty.';
comment on column public.invitations.token_hash is 'SHA-256 of the token that was returned to who invites.';

create policy outbox_definer_update on public.outbox for update to spine_definer using (kind = 'mail') with check (kind = 'mail');
grant update (attempts, next_attempt_at) on public.outbox to spine_definer;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

create function app.mail_invitation() returns trigger
    language plpgsql security definer set search_path = '' set client_min_messages = error as $$
begin
    insert into public.outbox (org_id, kind, destination, payload)
    values (new.org_id, 'mail', new.id::text,
            jsonb_build_object('kind', 'invitation', 'subject', jsonb_build_object('invitation_id', new.id)));
    perform app.notify_people(new.org_id, array(select p.id from public.profiles p where lower(p.email) = new.email), 'invitation',
                              jsonb_build_object('invitation_id', new.id,
                                                 'organization', (select o.name from public.organizations o where o.id = new.org_id)),
                              new.id::text);
    return null;
exception when others then
    raise warning 'invitation % is not mailed: %', new.id, sqlerrm;
    return null;
end
$$;
comment on function app.mail_invitation() is 'Has an invitation mailed to its address, and shown to the person whose address it is.';
grant execute on function app.mail_invitation() to spine_owner;

-- Takes up to `p_most` due mails of the organisation for delivery, with the address that each goes to now; nobody else takes them for two
-- minutes. A mail that must not be sent has `dropped` instead: `ended` (the invitation was used, taken back or is too old), `left` (the
-- person does not belong to the organisation), `unwanted`, `no_address`, `too_old` (three days), `too_many` (a person is sent fifty mails
-- an hour, and an organisation has 500 invitations mailed a day).
create function app.claim_mails(p_most integer)
    returns table (id uuid, attempts integer, kind text, subject jsonb, message_id uuid, address text, language text, organization text,
                   token text, dropped text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_org  uuid := app.service_org();
    v_name text := (select o.name from public.organizations o where o.id = v_org);
    v_seen text[] := '{}';
    o      public.outbox;
    i      public.invitations;
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system delivers mail, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    for o in
        update public.outbox x set attempts = x.attempts + 1, next_attempt_at = now() + interval '2 minutes'
          from (select d.id from public.outbox d
                 where d.org_id = v_org and d.kind = 'mail' and d.delivered_at is null and d.dropped_at is null and d.next_attempt_at <= now()
                 order by d.next_attempt_at limit p_most for update skip locked) due
         where x.id = due.id
        returning x.*
    loop
        claim_mails.id := o.id;
        claim_mails.attempts := o.attempts;
        claim_mails.kind := o.payload ->> 'kind';
        claim_mails.subject := o.payload -> 'subject';
        claim_mails.organization := v_name;
        claim_mails.message_id := null;
        claim_mails.address := null;
        claim_mails.language := null;
        claim_mails.token := null;
        claim_mails.dropped := null;
        if claim_mails.kind = 'invitation' then
            select * into i from public.invitations x where x.org_id = v_org and x.id = app.as_uuid(o.destination) for update;
            claim_mails.message_id := i.id;
            claim_mails.address := i.email;
            -- Somebody who is not known yet is written to in the language of who invites them.
            claim_mails.language := coalesce((select min(p.language) from public.profiles p where lower(p.email) = i.email),
                                             (select p.language from public.profiles p where p.id = i.invited_by));
            claim_mails.dropped := case
                when i.id is null or i.accepted_at is not null or i.expires_at <= now() then 'ended'
                when (select count(*) from public.outbox x
                       where x.org_id = v_org and x.kind = 'mail' and x.delivered_at > now() - interval '1 day'
                         and x.payload ->> 'kind' = 'invitation') >= 500 then 'too_many' end;
        else
            select n.id, p.email, p.language,
                   case when not app.belongs(n.user_id, v_org) then 'left'
                        when not coalesce(w.mail, d.mail) then 'unwanted'
                        when p.email is null then 'no_address' end
              into claim_mails.message_id, claim_mails.address, claim_mails.language, claim_mails.dropped
              from public.notifications n
              join public.profiles p on p.id = n.user_id
             cross join app.notification_defaults(n.kind) d
              left join public.notification_preferences w on w.org_id = n.org_id and w.user_id = n.user_id and w.kind = n.kind
             where n.id = app.as_uuid(o.payload ->> 'notification_id') and n.org_id = v_org and n.user_id = app.as_uuid(o.destination)
               and n.kind = o.payload ->> 'kind';
            claim_mails.dropped := case when claim_mails.message_id is null then 'left' else claim_mails.dropped end;
            if claim_mails.dropped is null
               and cardinality(array_positions(v_seen, o.destination))
                   + (select count(*) from public.outbox x
                       where x.kind = 'mail' and x.destination = o.destination and x.delivered_at > now() - interval '1 hour') >= 50 then
                claim_mails.dropped := 'too_many';
            end if;
        end if;
        if o.created_at < now() - interval '3 days' then
            claim_mails.dropped := coalesce(claim_mails.dropped, 'too_old');
        end if;
        if claim_mails.dropped is not null then
            claim_mails.address := null;
        else
            v_seen := v_seen || o.destination;
            if claim_mails.kind = 'invitation' then
                -- 256 bits, behind the id that finds the invitation.
                claim_mails.token := i.id || '.' || translate(
                    rtrim(encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64'), '='), '+/', '-_');
                -- The last fifty, should a server lose every answer for days.
                update public.invitations x
                   set mail_token_hashes = x.mail_token_hashes[greatest(1, cardinality(x.mail_token_hashes) - 48):]
                                           || sha256(convert_to(claim_mails.token, 'UTF8'))
                 where x.id = i.id;
            end if;
        end if;
        return next;
    end loop;
end
$$;
comment on function app.claim_mails(integer) is 'Takes due mails of one organisation for delivery: what each says, and where it goes now.';
grant execute on function app.claim_mails(integer) to spine_service;

-- As before, and with a token that was mailed.
create or replace function public.accept_invitation(token text) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_user uuid  := app.signed_in();
    v_hash bytea := sha256(convert_to(coalesce(accept_invitation.token, ''), 'UTF8'));
    i      public.invitations;
begin
    select * into i from public.invitations x
     where x.token_hash = v_hash
        or (x.id = app.as_uuid(split_part(accept_invitation.token, '.', 1)) and v_hash = any (x.mail_token_hashes)) for update;
    -- Another's invitation, one that never was: the same answer.
    if not found or i.email is distinct from lower(app.claim('email')) then
        perform app.refuse('PT404', 'invitation_not_found', 'There is no such invitation for your address.');
    end if;
    -- A person who was removed since is not let in by the invitation they once used.
    if (case when i.accepted_at is null then i.expires_at <= now()
             else i.accepted_by is distinct from v_user or not app.belongs(v_user, i.org_id) end) then
        perform app.refuse('PT409', 'invitation_ended', 'This invitation was used or is too old; ask for a new one.');
    end if;
    -- An invitation ends when the person who gave it has left.
    if i.accepted_at is null and not (exists (select from public.org_members m where m.org_id = i.org_id and m.user_id = i.invited_by)
                                      or i.kind = 'client_user' and exists (
                                          select from public.org_consultants m
                                           where m.org_id = i.org_id and m.user_id = i.invited_by and m.role = 'manager')) then
        perform app.refuse('PT409', 'invitation_ended', 'Whoever sent this invitation has left; ask for a new one.');
    end if;
    if i.accepted_at is null and i.client_id is not null
       and not exists (select from public.clients k where k.org_id = i.org_id and k.id = i.client_id and k.status = 'active') then
        perform app.refuse('PT409', 'client_archived', 'This client is archived; ask whoever invited you.');
    end if;
    if i.accepted_at is null then
        if (case i.kind
                when 'member' then exists (select from public.org_members m where m.org_id = i.org_id and m.user_id = v_user)
                when 'consultant' then exists (select from public.org_consultants m where m.org_id = i.org_id and m.user_id = v_user)
                else exists (select from public.client_users m where m.client_id = i.client_id and m.user_id = v_user) end) then
            perform app.refuse('PT409', 'already_member', 'You belong there already; whoever runs the organisation can change your role.');
        end if;
        case i.kind
            when 'member' then
                insert into public.org_members (org_id, user_id, role_id) values (i.org_id, v_user, i.role_id) on conflict do nothing;
            when 'consultant' then
                insert into public.org_consultants (org_id, user_id, role) values (i.org_id, v_user, i.role) on conflict do nothing;
            else
                insert into public.client_users (org_id, client_id, user_id, role) values (i.org_id, i.client_id, v_user, i.role)
                on conflict do nothing;
        end case;
        update public.invitations set accepted_at = now(), accepted_by = v_user where id = i.id;
    end if;
    perform app.remember_context(i.org_id, i.client_id);
    return i.org_id;
end
$$;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create trigger invitations_mail after insert on public.invitations
    for each row when (new.accepted_at is null) execute function app.mail_invitation();

reset role;
