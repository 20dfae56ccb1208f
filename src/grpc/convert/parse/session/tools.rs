//! Parses tools: the caller's own, those of MCP servers, and which of all are visible.

use std::collections::{BTreeMap, HashSet};

use super::{super::non_empty, Checks};
use crate::{
    copilot::{McpServer, McpTransport, Remote, Secret, Tool},
    grpc::pb,
};

/// How many tools of its own a session may have: as many as most models take.
pub(in crate::grpc) const MAX_TOOLS: usize = 128;

/// How many MCP servers a session may have.
pub(in crate::grpc) const MAX_MCP_SERVERS: usize = 32;

/// The longest name of a tool or an MCP server in bytes: models take no longer one.
const MAX_NAME: usize = 64;

impl Checks {
    /// Parses the names of tools.
    pub(super) fn tool_names(&mut self, field: &str, tools: Vec<String>) -> Vec<String> {
        for (n, tool) in tools.iter().enumerate() {
            let name = tool.strip_prefix("builtin:").unwrap_or(tool);
            let is_name = !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':'));
            if !is_name && tool != "builtin:*" {
                let advice = "write `name`, `builtin:name`, or `builtin:*` for all built-in tools";
                self.wrong(format!("{field}[{n}]"), advice);
            }
        }
        tools
    }

    /// Parses the caller's own tools. None may be named like a tool of an MCP server: the CLI would show only that one.
    pub(in crate::grpc) fn tools<'a>(
        &mut self,
        tools: Vec<pb::Tool>,
        mcp_servers: impl Iterator<Item = &'a String> + Clone,
    ) -> Vec<Tool> {
        self.at_most(MAX_TOOLS, "tools", tools.len());
        let mut names = HashSet::new();
        let tools = tools.into_iter().enumerate().map(|(n, tool)| {
            let field = |part: &str| format!("tools[{n}].{part}");
            self.name(&field("name"), &tool.name);
            if !names.insert(tool.name.clone()) {
                self.wrong(field("name"), format!("{:?} is the name of two tools", tool.name));
            }
            let of_server = |server: &&String| {
                tool.name.strip_prefix(server.as_str()).is_some_and(|rest| rest.starts_with('-'))
            };
            if let Some(server) = mcp_servers.clone().find(of_server) {
                let problem = format!("begins like the tools of the MCP server {server:?}");
                self.wrong(field("name"), problem);
            }
            Tool {
                parameters: non_empty(tool.parameters_json)
                    .and_then(|schema| self.json_schema(&field("parameters_json"), schema))
                    .map(|(json, _)| json),
                timeout: self.duration(&field("timeout"), tool.timeout),
                name: tool.name,
                description: tool.description,
                overrides_builtin: tool.overrides_builtin,
                needs_permission: tool.needs_permission,
            }
        });
        tools.collect()
    }

    pub(in crate::grpc) fn mcp_servers(
        &mut self,
        servers: BTreeMap<String, pb::McpServer>,
    ) -> BTreeMap<String, McpServer> {
        self.at_most(MAX_MCP_SERVERS, "mcp_servers", servers.len());
        let servers = servers.into_iter().filter_map(|(name, server)| {
            let field = |part: &str| format!("mcp_servers[{name:?}].{part}");
            self.name(&format!("mcp_servers[{name:?}]"), &name);
            if server.tools.iter().any(String::is_empty) {
                self.wrong(field("tools"), "has an empty name");
            }
            let timeout = self.duration(&field("timeout"), server.timeout);
            let transport = match server.transport {
                None => {
                    self.wrong(field("transport"), "is required: stdio or http");
                    return None;
                }
                Some(pb::mcp_server::Transport::Stdio(stdio)) => self.stdio(&field("stdio"), stdio),
                Some(pb::mcp_server::Transport::Http(http)) => self.http(&field("http"), http),
            };
            // The CLI takes 0 as no timeout at all, and fails on less than a millisecond.
            let timeout =
                timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1));
            // A CLI may take an empty list for no tools.
            let tools = if server.tools.is_empty() { vec!["*".into()] } else { server.tools };
            Some((name, McpServer { transport, tools, timeout }))
        });
        servers.collect()
    }

    fn stdio(&mut self, field: &str, stdio: pb::mcp_server::Stdio) -> McpTransport {
        let is_variable = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        if stdio.env.iter().any(|(name, value)| !is_variable(name) || value.contains('\0')) {
            self.wrong(
                format!("{field}.env"),
                "a name is empty or has a `=`, or a name or value has a zero byte",
            );
        }
        McpTransport::Stdio {
            command: self.text(&format!("{field}.command"), stdio.command),
            args: stdio.args,
            env: stdio.env.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            cwd: self.directory(&format!("{field}.working_directory"), stdio.working_directory),
        }
    }

    fn http(&mut self, field: &str, http: pb::mcp_server::Http) -> McpTransport {
        self.url(&format!("{field}.url"), &http.url);
        let headers = self.headers(&format!("{field}.headers"), http.headers);
        let remote = Remote { url: http.url, headers };
        match self.one_of(&format!("{field}.type"), http.r#type, &["http", "sse"]).as_deref() {
            Some("sse") => McpTransport::Sse(remote),
            _ => McpTransport::Http(remote),
        }
    }

    fn name(&mut self, field: &str, name: &str) {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(allowed) {
            self.wrong(field, format!("a name has 1 to {MAX_NAME} of A-Z a-z 0-9 _ -"));
        }
    }
}
