"""The command line `amplify-import`."""
