-- Read any text as a UUID or as null, a constant included: the planner works out `'x'::uuid` ahead of the question whether it is one.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    the function as it was.

set local role spine_owner;
create or replace function app.as_uuid(value text) returns uuid
    language sql stable
    -- The cast stands outside, where its argument is never known before the question is answered.
    return (case when pg_input_is_valid(value, 'uuid') then value end)::uuid;
reset role;
