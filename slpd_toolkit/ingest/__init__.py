"""Writing a token cache: from slides (`embedding`), or from the feature files of other tools (`importing`)."""
