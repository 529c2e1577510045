//! Webhooks: signed POST requests that report finished jobs.
//!
//! Clients choose the URLs. Without precautions, such a server reaches what its clients cannot: other containers, the host, the metadata
//! service of a cloud (server-side request forgery). So webhooks are disabled until `WEBHOOK_ALLOW` names hosts. The addresses of a host
//! are looked up here and checked with [`allow_list::AllowList::permits`]. The connection goes to one of exactly these addresses. Redirects
//! and proxies are not followed.

/// Hosts and addresses that webhooks may reach.
pub mod allow_list;

/// HTTP client for webhooks.
mod client;

/// Delivery of webhooks that are due.
pub mod delivery;

/// Addresses and networks, and which of them are on the Internet.
mod network;

/// Key that signs webhooks.
pub mod secret;

/// `WEBHOOK_ALLOW` and `WEBHOOK_SECRET`.
pub mod settings;
