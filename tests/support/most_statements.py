"""How many statements of the database each endpoint may take for its example: tests/integration/test_statements.py counts them."""

from __future__ import annotations

# The most statements of a request, by endpoint: more of them are a decision, as is a new endpoint.
MOST = {
    name: most
    for most, names in {
        0: """
            accept_as_user ask_passkey begin_identity begin_passkey begin_totp cancel_run create_passkey create_run
            decide_device delete_passkey delete_totp end_login export_logs finish_authorization finish_sign_in get_asyncapi
            get_attempts get_docs get_me get_member get_openapi get_result get_run get_sign_in_script get_sign_in_style
            get_workflow leave list_adapters list_credentials list_digests list_known_providers list_members list_roles
            open_authorization open_session_by_passkey patch_me put_password put_totp read_digest_file receive rerun_run
            show_device show_invitation show_sign_in show_console show_overview show_signed_out sign_out sign_out_everywhere
            tail_logs
            answer_question show_question get_form_fields get_submission show_form show_sent
        """,
        1: """
            accept_invitation begin_sign_in cancel_replay count_logs_by_time count_logs_by_value create_integration
            create_invitation create_level create_organization create_retention create_variable create_pack delete_invitation
            delete_level delete_mapping delete_repository delete_retention delete_schedule delete_search delete_subscription
            delete_variable discard_dead_letter erase_messages get_artifact get_connection get_dead_letter get_delivery
            get_file get_identity_provider get_integration get_level get_lines get_organization get_provider get_removal
            get_replay get_repository get_retention get_secret get_source get_state get_subscription get_variable get_why
            invite_user list_artifacts list_commits list_data_providers list_dead_letters list_deliveries list_environments
            list_files list_history list_identity_providers list_integrations list_invitations list_levels list_orgs
            list_providers list_replays list_repositories list_retentions list_runs list_secrets list_sign_in_providers
            list_sources list_state list_subscriptions list_variables list_workflows next_firings patch_integration
            patch_level patch_organization patch_repository patch_retention patch_source patch_variable poll_login
            put_integration put_level put_organization put_retention put_variable read_archived_rows read_invitation
            search_audit search_logs serve_mcp show_login signal_run stream_environments test_source list_approvals
            list_firings answer_approval get_approval make_approval_link delete_form get_form list_forms make_form_link
            patch_form delete_pack get_pack list_packs patch_pack put_pack
        """,
        2: """
            approve_login create_repository create_source delete_member delete_state deny_login emit_event get_authorization
            get_key get_options get_schedule get_search get_steps get_user list_connections list_git_conflicts list_held
            list_keys list_mappings list_removals list_schedules list_searches list_users open_session patch_connection
            patch_identity_provider patch_key patch_member patch_provider patch_schedule patch_search patch_secret
            patch_subscription patch_user pull_workspace push_workspace put_key put_repository put_schedule put_source
            put_state put_user refresh_connection replay_dead_letter resolve_git_conflicts resume_run retry_delivery
            rotate_key show_authorization show_git_diff show_git_status stream_run sync_workspace create_form put_form
        """,
        3: """
            begin_login create_key create_schedule create_search create_subscription create_user delete_key get_quotas
            put_search put_subscription test_connection send_form
        """,
        4: """
            authorize_connection delete_integration delete_source get_mapping list_problems restore_files rotate_keys
            send_submission
        """,
        5: """
            create_connection create_identity_provider create_provider create_secret delete_user preview_subscription
            put_connection put_identity_provider put_provider put_secret run_schedule
        """,
        6: "build_environments replay_deliveries",
        7: "check_needs delete_connection delete_file delete_identity_provider delete_secret",
        8: "commit_files delete_provider put_file",
        9: "patch_mapping",
        10: "discard_workspace_changes move_files put_mapping",
        17: "delete_organization",
    }.items()
    for name in names.split()
}
# Asked by programs every few seconds, and not traced; none asks the database.
PROBES = {"alive", "ready", "metrics"}
