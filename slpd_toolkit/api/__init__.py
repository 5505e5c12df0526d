"""The Python interface, `import slpd_toolkit as slpd`: every command as a function, and the results they return."""
