-- Let the server put app.uuidv7() in the place of its call, which almost every inserted row makes. The names in this body are bound as it is made, so
-- that it needs no search path: a function that sets one is called, which took an insert about 10 us.
--
-- Locks:   none on tables.
-- Rollout: expand.
-- Undo:    create or replace app.uuidv7 as it was.

set local role spine_owner;

create or replace function app.uuidv7() returns uuid language sql volatile
    return encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
            52, 1), 53, 1), 'hex')::uuid;

reset role;
