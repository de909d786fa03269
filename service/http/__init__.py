"""The service over HTTP: routes, schemas, errors, limits, and the page."""
