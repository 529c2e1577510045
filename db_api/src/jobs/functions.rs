/// Redis function library of the job queue. Redis runs each function atomically, and each step of a job is one function. The files are
/// one program, in this order.
pub(super) const FUNCTIONS: &str = concat!(
    include_str!("functions/base.lua"),
    include_str!("functions/capacity.lua"),
    include_str!("functions/results.lua"),
    include_str!("functions/submit.lua"),
    include_str!("functions/workers.lua"),
    include_str!("functions/lifecycle.lua"),
    include_str!("functions/webhooks.lua"),
    include_str!("functions/announcements.lua"),
    include_str!("functions/register.lua"),
);
