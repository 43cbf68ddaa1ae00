-- Say by a code what is wrong where a lead is closed by half, and refuse an end that is still to come.
--
-- Locks:   leads exclusively, for the moment that a trigger takes.
-- Rollout: expand. A lead whose closed_at lies in the future keeps it until it is written again.
-- Undo:    drop the trigger and app.check_lead_end.

set local role spine_definer;

create function app.check_lead_end() returns trigger language plpgsql security definer set search_path = '' as $$
begin
    if new.closed_at is null and new.status in ('won', 'lost') then
        perform app.refuse('PT422', 'lead_end_missing', 'A lead that is won or lost needs closed_at, the time when it ended.');
    elsif new.closed_at is not null and new.status not in ('won', 'lost') then
        perform app.refuse('PT422', 'lead_not_ended', 'A lead with closed_at needs the status won or lost; to open it again, set closed_at to null.');
    elsif new.closed_at > now() then
        perform app.refuse('PT422', 'lead_end_in_future', 'closed_at is in the future; the database takes "now" for the present.');
    end if;
    return new;
end
$$;
comment on function app.check_lead_end() is 'Refuses a lead that is closed by half, or in the future.';
grant execute on function app.check_lead_end() to spine_owner;

reset role;
set local role spine_owner;

create trigger leads_check_end before insert or update of status, closed_at on public.leads for each row execute function app.check_lead_end();

reset role;
