"""The older route: AMPLIFY- and ATM-layout track files, read as they lie."""
