//! Tools that the CLI does not bring: the caller's own, and those of MCP servers.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize, Serializer, ser::SerializeStruct};

use crate::copilot::{Json, Secret};

/// A tool that the caller runs: the CLI knows only its description.
///
/// It serializes in the form in which it is stored; `Declaration` is the form for the CLI.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its description, for the model.
    pub description: String,
    /// The JSON schema of its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Json>,
    /// Whether it replaces a built-in tool of this name.
    pub overrides_builtin: bool,
    /// Whether a call needs a permission of the kind `custom-tool`.
    pub needs_permission: bool,
    /// How long the caller may take to answer a call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

/// A tool in the form for the CLI.
#[derive(Debug)]
pub(super) struct Declaration<'a>(pub(super) &'a Tool);

impl Serialize for Declaration<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Tool { name, description, parameters, overrides_builtin, needs_permission, timeout: _ } = self.0;
        let mut tool = serializer.serialize_struct("Tool", 5)?;
        tool.serialize_field("name", name)?;
        tool.serialize_field("description", description)?;
        if let Some(parameters) = parameters {
            tool.serialize_field("parameters", parameters)?;
        }
        tool.serialize_field("overridesBuiltInTool", overrides_builtin)?;
        tool.serialize_field("skipPermission", &!needs_permission)?;
        tool.end()
    }
}

/// An MCP server (Model Context Protocol), which provides tools.
///
/// [`Self::has_secrets`] says which must not be stored but sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct McpServer {
    /// How it is reached.
    #[serde(flatten)]
    pub transport: McpTransport,
    /// The tools to use; `*` is all of them.
    #[serde(default)]
    pub tools: Vec<String>,
    /// How long a call of a tool may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// The transport to an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum McpTransport {
    /// The CLI starts a program and speaks with it over its standard input and output.
    Stdio {
        /// The program.
        command: String,
        /// Its arguments.
        #[serde(default)]
        args: Vec<String>,
        /// Environment variables, beside the CLI's own.
        #[serde(default)]
        env: BTreeMap<String, Secret>,
        /// Its working directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
    },
    /// A URL, by the Streamable HTTP transport.
    Http(Remote),
    /// A URL, by the older transport of Server-Sent Events.
    Sse(Remote),
}

/// An MCP server at a URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// The URL.
    pub url: String,
    /// Extra HTTP headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
}

impl McpServer {
    /// The secrets in it.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        match &self.transport {
            McpTransport::Stdio { env, .. } => env.values(),
            McpTransport::Http(remote) | McpTransport::Sse(remote) => remote.headers.values(),
        }
    }

    /// Whether it has secrets, and so must not be stored.
    pub fn has_secrets(&self) -> bool {
        self.secrets().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_tool_is_declared_in_the_clis_words_and_runs_without_permission_unless_it_needs_one() {
        let declared = |tool: &Tool| serde_json::to_value(Declaration(tool)).unwrap();
        let tool = Tool { name: "t".into(), timeout: Some(Duration::from_secs(1)), ..Tool::default() };
        assert_eq!(
            declared(&tool),
            json!({"name": "t", "description": "", "overridesBuiltInTool": false, "skipPermission": true})
        );
        let tool = Tool {
            description: "d".into(),
            parameters: Some(json!({"type": "object"}).into()),
            overrides_builtin: true,
            needs_permission: true,
            ..tool
        };
        assert_eq!(
            declared(&tool),
            json!({"name": "t", "description": "d", "parameters": {"type": "object"},
                "overridesBuiltInTool": true, "skipPermission": false})
        );
        assert_eq!(serde_json::from_value::<Tool>(serde_json::to_value(&tool).unwrap()).unwrap(), tool);
    }

    #[test]
    fn an_mcp_server_goes_to_the_cli_whole_and_is_read_back_as_it_was() {
        let secrets = || BTreeMap::from([("KEY".to_owned(), Secret::new("hunter2"))]);
        let stdio = |env| McpServer {
            transport: McpTransport::Stdio {
                command: "node".into(),
                args: vec!["x.js".into()],
                env,
                cwd: Some("/work".into()),
            },
            tools: vec!["echo".into()],
            timeout: Some(5000),
        };
        let sse = |headers| McpServer {
            transport: McpTransport::Sse(Remote { url: "https://x".into(), headers }),
            tools: vec!["*".into()],
            timeout: None,
        };
        let check = |with: McpServer, without: McpServer, expected: Value| {
            let text = serde_json::to_value(&with).unwrap();
            assert_eq!(text, expected);
            assert_eq!(serde_json::from_value::<McpServer>(text).unwrap(), with);
            assert_eq!((with.has_secrets(), without.has_secrets()), (true, false));
            assert!(!format!("{with:?}").contains("hunter2"));
        };
        check(
            stdio(secrets()),
            stdio(BTreeMap::new()),
            json!({"type": "stdio", "command": "node", "args": ["x.js"], "env": {"KEY": "hunter2"},
                "cwd": "/work", "tools": ["echo"], "timeout": 5000}),
        );
        check(
            sse(secrets()),
            sse(BTreeMap::new()),
            json!({"type": "sse", "url": "https://x", "headers": {"KEY": "hunter2"}, "tools": ["*"]}),
        );
    }
}
