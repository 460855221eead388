"""Replies that are the same for everybody, as recorded from LibreChat v0.8.7."""

from __future__ import annotations

from geko_proxy.demo.librechat.express import Json

CONFIG_START: Json = {
    "appTitle": "LibreChat",
    "discordLoginEnabled": False,
    "facebookLoginEnabled": False,
    "githubLoginEnabled": False,
    "googleLoginEnabled": False,
    "appleLoginEnabled": False,
    "openidLoginEnabled": False,
    "openidLabel": "Continue with OpenID",
    "openidAutoRedirect": False,
    "samlLoginEnabled": False,
    "serverDomain": "http://localhost:3080",
    "emailLoginEnabled": True,
    "registrationEnabled": True,
    "socialLoginEnabled": False,
    "emailEnabled": False,
    "passwordResetEnabled": False,
    "ldap": {"enabled": False},
}
CONFIG_LOGGED_IN: Json = {
    "showBirthdayIcon": False,
    "helpAndFaqURL": "https://librechat.ai",
    "sharedLinksEnabled": True,
    "publicSharedLinksEnabled": False,
    "openidReuseTokens": False,
    "allowAccountDeletion": True,
    "sharedLinksSnapshotFilesEnabled": True,
}
CONFIG_INTERFACE: Json = {
    "interface": {
        "modelSelect": True,
        "parameters": True,
        "presets": True,
        "mcpServers": {"use": True, "create": True, "share": False, "public": False},
        "autoSubmitFromUrl": True,
        "buildInfo": True,
        "contextUsage": True,
        "contextCost": False,
        "remoteAgents": {"use": True, "create": True, "share": True, "public": True},
    },
    "titleGenerationTiming": "immediate",
    "sharePointFilePickerEnabled": False,
    "conversationImportMaxFileSize": 0,
}
CONFIG_END: Json = {
    "socialLogins": ["google", "facebook", "openid", "github", "discord", "saml"],
    "turnstile": {},
    "buildInfo": {
        "commit": "9e74cc0e57b395926122bd4062c1fcedc48ed465",
        "commitShort": "9e74cc0",
        "branch": None,
        "buildDate": None,
    },
}
AGENTS_ENDPOINT: Json = {
    "userProvide": False,
    "capabilities": [
        "deferred_tools",
        "execute_code",
        "file_search",
        "web_search",
        "artifacts",
        "subagents",
        "actions",
        "context",
        "skills",
        "tools",
        "chain",
        "ocr",
    ],
    "order": 1,
    "disableBuilder": False,
}
USER_PERMISSIONS: Json = {
    "BOOKMARKS": {"USE": True},
    "PROMPTS": {"USE": True, "CREATE": True, "SHARE": False, "SHARE_PUBLIC": False},
    "MEMORIES": {"USE": True, "CREATE": True, "UPDATE": True, "READ": True, "OPT_OUT": True},
    "AGENTS": {"USE": True, "CREATE": True, "SHARE": False, "SHARE_PUBLIC": False},
    "MULTI_CONVO": {"USE": True},
    "TEMPORARY_CHAT": {"USE": True},
    "RUN_CODE": {"USE": True},
    "WEB_SEARCH": {"USE": True},
    "PEOPLE_PICKER": {"VIEW_USERS": False, "VIEW_GROUPS": False, "VIEW_ROLES": False},
    "MARKETPLACE": {"USE": False},
    "FILE_SEARCH": {"USE": True},
    "FILE_CITATIONS": {"USE": True},
    "MCP_SERVERS": {
        "USE": True,
        "CREATE": False,
        "SHARE": False,
        "SHARE_PUBLIC": False,
        "CONFIGURE_OBO": False,
    },
    "REMOTE_AGENTS": {"USE": True, "CREATE": True, "SHARE": True, "SHARE_PUBLIC": True},
    "SKILLS": {"USE": True, "CREATE": True, "SHARE": False, "SHARE_PUBLIC": False},
    "SHARED_LINKS": {"CREATE": True, "SHARE": True, "SHARE_PUBLIC": True},
}

DEFAULT_MODELS: dict[str, list[str]] = {
    name: ids.split()
    for name, ids in {
        "openAI": """
    gpt-5.5 gpt-5.5-pro chat-latest gpt-5.4 gpt-5.4-pro gpt-5.4-mini gpt-5.4-nano gpt-5.3-codex
    gpt-5.2 gpt-5.1 gpt-5.1-codex gpt-5.1-codex-max gpt-5.1-codex-mini gpt-5 gpt-5-mini gpt-5-nano
    gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-4o-mini gpt-4o chatgpt-4o-latest gpt-4-vision-preview
    gpt-3.5-turbo-instruct-0914 gpt-3.5-turbo-instruct
""",
        "google": """
    gemini-3.5-flash gemini-3.1-pro-preview gemini-3.1-pro-preview-customtools
    gemini-3.1-flash-lite-preview gemini-3-pro-preview gemini-3-flash-preview gemini-2.5-pro
    gemini-2.5-flash gemini-2.5-flash-lite
""",
        "anthropic": """
    claude-fable-5 claude-opus-4-8 claude-opus-4-7 claude-sonnet-4-6 claude-opus-4-6
    claude-sonnet-4-5 claude-sonnet-4-5-20250929 claude-haiku-4-5 claude-haiku-4-5-20251001
    claude-opus-4-1 claude-opus-4-1-20250805 claude-opus-4-5 claude-sonnet-4-20250514
    claude-sonnet-4-0 claude-opus-4-20250514 claude-opus-4-0 claude-3-7-sonnet-latest
    claude-3-7-sonnet-20250219 claude-3-5-haiku-20241022 claude-3-5-sonnet-20241022
    claude-3-5-sonnet-20240620 claude-3-5-sonnet-latest
""",
        "azureOpenAI": """
    gpt-5.5 gpt-5.5-pro chat-latest gpt-5.4 gpt-5.4-pro gpt-5.4-mini gpt-5.4-nano gpt-5.3-codex
    gpt-5.2 gpt-5.1 gpt-5.1-codex gpt-5.1-codex-max gpt-5.1-codex-mini gpt-5 gpt-5-mini gpt-5-nano
    gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-4o-mini gpt-4o
""",
        "assistants": """
    gpt-5.5 gpt-5.5-pro chat-latest gpt-5.4 gpt-5.4-pro gpt-5.4-mini gpt-5.4-nano gpt-5.3-codex
    gpt-5.2 gpt-5.1 gpt-5.1-codex gpt-5.1-codex-max gpt-5.1-codex-mini gpt-5 gpt-5-mini gpt-5-nano
    gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-4o-mini gpt-4o chatgpt-4o-latest
""",
        "azureAssistants": """
    gpt-5.5 gpt-5.5-pro chat-latest gpt-5.4 gpt-5.4-pro gpt-5.4-mini gpt-5.4-nano gpt-5.3-codex
    gpt-5.2 gpt-5.1 gpt-5.1-codex gpt-5.1-codex-max gpt-5.1-codex-mini gpt-5 gpt-5-mini gpt-5-nano
    gpt-4.1 gpt-4.1-mini gpt-4.1-nano gpt-4o-mini gpt-4o chatgpt-4o-latest gpt-4-vision-preview
    gpt-3.5-turbo-instruct-0914 gpt-3.5-turbo-instruct
""",
        "bedrock": """
    anthropic.claude-fable-5 anthropic.claude-opus-4-8 anthropic.claude-opus-4-7
    anthropic.claude-sonnet-4-6 anthropic.claude-opus-4-6-v1
    anthropic.claude-sonnet-4-5-20250929-v1:0 anthropic.claude-haiku-4-5-20251001-v1:0
    anthropic.claude-opus-4-1-20250805-v1:0 anthropic.claude-3-5-sonnet-20241022-v2:0
    anthropic.claude-3-5-sonnet-20240620-v1:0 anthropic.claude-3-5-haiku-20241022-v1:0
    cohere.command-r-v1:0 cohere.command-r-plus-v1:0 meta.llama2-13b-chat-v1 meta.llama2-70b-chat-v1
    meta.llama3-8b-instruct-v1:0 meta.llama3-70b-instruct-v1:0 meta.llama3-1-8b-instruct-v1:0
    meta.llama3-1-70b-instruct-v1:0 meta.llama3-1-405b-instruct-v1:0
    mistral.mistral-7b-instruct-v0:2 mistral.mixtral-8x7b-instruct-v0:1
    mistral.mistral-large-2402-v1:0 mistral.mistral-large-2407-v1:0 mistral.mistral-small-2402-v1:0
    ai21.jamba-instruct-v1:0 amazon.titan-text-lite-v1 amazon.titan-text-express-v1
    amazon.titan-text-premier-v1:0
""",
    }.items()
}
