#!/bin/sh -e
celery -A app worker -l INFO
