/// Library of functions in Redis: every step of a job is one function, which Redis runs as a whole. The files are one program.
pub const FUNCTIONS: &str = concat!(
    include_str!("functions/base.lua"),
    include_str!("functions/room.lua"),
    include_str!("functions/settle.lua"),
    include_str!("functions/submit.lua"),
    include_str!("functions/work.lua"),
    include_str!("functions/end.lua"),
    include_str!("functions/webhooks.lua"),
    include_str!("functions/models.lua"),
    include_str!("functions/register.lua"),
);
