-- Find the owner of an object of Stripe's by index, whatever collation the text has that it is asked with.
--
-- Locks:   none.
-- Rollout: expand; deployed functions ask with the collation of names, and are served by index from here on.
-- Undo:    create or replace app.enter_stripe as 20261121003100 has it.

set local role spine_owner;

-- Finds the owner and works in their organisation from here on: called as a transaction begins. The caller is spine_service, which
-- could name any organisation anyway; what follows is confined by the policies.
create or replace function app.enter_stripe(p_object text, p_refs jsonb) returns text
    language sql volatile set search_path = '' as $$
    select set_config('app.service_org', coalesce(app.stripe_owner(p_object collate "default",
                                                                   array(select jsonb_array_elements_text(p_refs)))::text, ''), true)
$$;

reset role;
