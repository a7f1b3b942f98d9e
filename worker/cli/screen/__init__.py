"""The full-screen view of `amplify-import watch`."""
